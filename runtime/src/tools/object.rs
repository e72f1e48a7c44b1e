//! One object that may be a call, character by character: `{"name": …, "arguments": {…}}`, or `parameters`, in any order.
//!
//! It is a call once its name is one of the functions' and its arguments have begun as an object, or it is over without any. Until
//! then it may turn out to be none, as soon as a key or a value says so.

use super::value::{Took, Value};

/// What a character told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Nothing yet.
    Nothing,
    /// It is a call, with these arguments so far.
    Call { name: String, arguments: String },
    /// More of the call's arguments.
    Arguments(char),
    /// It is no call.
    No,
}

/// Where an object ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// With the character that came last.
    Here,
    /// Before it: a call whose last brace is missing.
    Before,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Name,
    Arguments,
    Other,
}

/// Where in the object we are.
#[derive(Debug)]
enum At {
    /// Before a key.
    Keys,
    /// In a key, with what came of it.
    InKey(String),
    /// Behind a key.
    Colon(Key),
    /// Behind the colon.
    Before(Key),
    /// In a value, with what came of it.
    In(Key, Value, String),
    /// Behind a value.
    Behind,
}

/// Reads one object; the opening brace has come already.
#[derive(Debug)]
pub(super) struct Object {
    at: At,
    name: Option<String>,
    /// Arguments that came before the name.
    early: Option<String>,
    is_call: bool,
    end: Option<End>,
}

impl Object {
    /// Behind the opening brace.
    pub fn new() -> Self {
        Self { at: At::Keys, name: None, early: None, is_call: false, end: None }
    }

    /// It is a call.
    pub fn is_call(&self) -> bool {
        self.is_call
    }

    /// It is over.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Takes a character. `names`: the functions that may be called.
    pub fn push(&mut self, c: char, names: &[String]) -> Said {
        match std::mem::replace(&mut self.at, At::Behind) {
            At::Keys if c.is_whitespace() => self.stay(At::Keys),
            At::Keys if c == '"' => self.stay(At::InKey(String::new())),
            At::Keys => self.wrong(),
            At::InKey(key) if c == '"' => self.key(&key),
            At::InKey(mut key) => {
                key.push(c);
                self.stay(At::InKey(key))
            }
            At::Colon(key) if c.is_whitespace() => self.stay(At::Colon(key)),
            At::Colon(key) if c == ':' => self.stay(At::Before(key)),
            At::Colon(_) => self.wrong(),
            At::Before(key) if c.is_whitespace() => self.stay(At::Before(key)),
            At::Before(key) => self.value(key, Value::default(), String::new(), c, names),
            At::In(key, value, raw) => self.value(key, value, raw, c, names),
            At::Behind if c.is_whitespace() => Said::Nothing,
            At::Behind if c == ',' => self.stay(At::Keys),
            At::Behind if c == '}' => self.close(),
            At::Behind => self.wrong(),
        }
    }

    fn stay(&mut self, at: At) -> Said {
        self.at = at;
        Said::Nothing
    }

    /// Something that cannot stand here: the end of a call, or no call.
    fn wrong(&mut self) -> Said {
        self.end = Some(End::Before);
        if self.is_call { Said::Nothing } else { Said::No }
    }

    fn key(&mut self, key: &str) -> Said {
        let key = match key {
            "name" => Key::Name,
            "arguments" | "parameters" => Key::Arguments,
            "id" | "type" => Key::Other,
            _ if self.is_call => Key::Other,
            _ => return self.wrong(),
        };
        self.stay(At::Colon(key))
    }

    fn value(&mut self, key: Key, mut value: Value, mut raw: String, c: char, names: &[String]) -> Said {
        let took = value.push(c);
        // From here on arguments are handed on as they come.
        let begins = key == Key::Arguments && raw.is_empty() && c == '{' && !self.is_call;
        if let Some(name) = self.name.take_if(|_| begins) {
            self.is_call = true;
            self.at = At::In(key, value, "{".into());
            return Said::Call { name, arguments: "{".into() };
        }
        let streams = key == Key::Arguments && self.is_call && raw == "{";
        if took != Took::Behind && !self.is_call {
            raw.push(c);
        }
        match took {
            Took::Part => self.at = At::In(key, value, raw),
            Took::Last if streams || self.is_call => {}
            Took::Last => return self.known(key, &raw, names),
            Took::Behind => match self.behind(key, &raw, names) {
                Said::Nothing => return self.push(c, names),
                Said::Call { name, arguments } => {
                    // A word stood for the arguments; what follows it is the frame's.
                    self.push(c, names);
                    return Said::Call { name, arguments };
                }
                other @ (Said::Arguments(_) | Said::No) => return other,
            },
        }
        if streams { Said::Arguments(c) } else { Said::Nothing }
    }

    fn behind(&mut self, key: Key, raw: &str, names: &[String]) -> Said {
        match (self.is_call, raw.is_empty()) {
            (true, _) => Said::Nothing,
            (false, true) => self.wrong(),
            (false, false) => self.known(key, raw, names),
        }
    }

    /// A value is whole, and it was no call so far.
    fn known(&mut self, key: Key, raw: &str, names: &[String]) -> Said {
        match key {
            Key::Name => match serde_json::from_str(raw).ok().filter(|name| names.contains(name)) {
                Some(name) => self.name = Some(name),
                None => return self.wrong(),
            },
            Key::Arguments => match object(raw) {
                Some(arguments) => self.early = Some(arguments),
                None => return self.wrong(),
            },
            Key::Other => {}
        }
        match (self.name.take(), self.early.take()) {
            (Some(name), Some(arguments)) => {
                self.is_call = true;
                Said::Call { name, arguments }
            }
            (name, early) => {
                (self.name, self.early) = (name, early);
                Said::Nothing
            }
        }
    }

    fn close(&mut self) -> Said {
        self.end = Some(End::Here);
        match self.name.take() {
            // Without arguments: a function that takes none.
            Some(name) => {
                self.is_call = true;
                Said::Call { name, arguments: "{}".into() }
            }
            None if self.is_call => Said::Nothing,
            None => Said::No,
        }
    }
}

/// Arguments as they are handed on: an object; one that was written as a string; nothing for `null`.
fn object(raw: &str) -> Option<String> {
    if raw.starts_with('{') {
        return Some(raw.to_owned());
    }
    match serde_json::from_str(raw).ok()? {
        serde_json::Value::Null => Some("{}".into()),
        serde_json::Value::String(text) if text.trim().is_empty() => Some("{}".into()),
        serde_json::Value::String(text) => {
            serde_json::from_str::<serde_json::Map<_, _>>(&text).ok().map(|_| text.trim().to_owned())
        }
        _ => None,
    }
}
