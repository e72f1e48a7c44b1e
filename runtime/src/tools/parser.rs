//! An answer's text, piece by piece → content and tool calls, in the OpenAI style: a call's name comes once, its arguments as
//! fragments.
//!
//! Text that may become a call is held back until it is one or cannot be one any more; then it is content, all of it. What a call
//! is made of beside its name and arguments (marks, brackets, white space around it) is neither.

use super::{
    Format, Reading,
    object::{End, Object, Said},
    value::{Took, Value},
};
use crate::engine::mix;

/// A part of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallDelta {
    /// Which call, from 0.
    pub index: u32,
    /// In a call's first part: its id and its function's name.
    pub begins: Option<(String, String)>,
    /// More of its arguments.
    pub arguments: String,
}

/// What a piece of text came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Text that is no call.
    pub content: String,
    /// Parts of calls.
    pub calls: Vec<CallDelta>,
}

/// Where in the text we are.
#[derive(Debug)]
enum At {
    /// In content, or before anything.
    Content,
    /// Behind an opening mark or bracket, or what stands between two calls: before an object or a name.
    Opened { list: bool },
    /// In a name that stands before its arguments; it began here in what is held.
    Name(usize),
    /// In an object: a call, or text that may become one.
    Object { object: Object, list: bool },
    /// Behind a name's mark, before its arguments.
    Named(String),
    /// In arguments that stand alone.
    Arguments(Value),
    /// Behind a call.
    Behind { list: bool, closed: bool },
    /// Behind the only call there may be.
    Over,
}

/// Reads calls out of one choice's text.
pub struct Parser {
    reading: Reading,
    at: At,
    /// Text that may still become a part of a call.
    held: String,
    /// Formats without a mark: what came is no call, so nothing that follows is one.
    begun: bool,
    /// Calls that have begun.
    calls: u32,
    key: u64,
}

/// What may stand before a first call that has no mark: Llama's tag, and what models put around JSON.
const LEADS: [&str; 3] = ["<|python_tag|>", "```json", "```"];
const ARGS: &str = "[ARGS]";
const CALL_ID: &str = "[CALL_ID]";
/// Bytes of an id between a name and its arguments.
const ID_BYTES_MAX: usize = 64;
/// Calls' ids are this many letters and digits: Mistral's templates take no others.
const ID_CHARS: usize = 9;

impl Parser {
    /// Before any text. Its calls' ids follow from `key` and their number.
    pub fn new(reading: Reading, key: u64) -> Self {
        Self { reading, at: At::Content, held: String::new(), begun: false, calls: 0, key }
    }

    /// A call has begun.
    pub fn has_calls(&self) -> bool {
        self.calls > 0
    }

    /// The only call there may be is over; more text is ignored.
    pub fn is_over(&self) -> bool {
        matches!(self.at, At::Over)
    }

    /// Takes more text.
    pub fn push(&mut self, text: &str) -> Parsed {
        let mut out = Parsed::default();
        text.chars().for_each(|c| self.take(c, &mut out));
        out
    }

    /// The text has ended: what was held back, and what looked like a call and was none.
    pub fn finish(&mut self) -> Parsed {
        let held = std::mem::take(&mut self.held);
        let content = match std::mem::replace(&mut self.at, At::Content) {
            At::Behind { list, closed } if self.is_frame(&held, list, closed) => String::new(),
            At::Opened { .. } if self.calls > 0 && held.trim_matches(between).is_empty() => String::new(),
            At::Content | At::Opened { .. } | At::Name(_) | At::Named(_) | At::Behind { .. } | At::Object { .. } => {
                held
            }
            At::Arguments(_) | At::Over => String::new(),
        };
        Parsed { content, calls: Vec::new() }
    }

    fn take(&mut self, c: char, out: &mut Parsed) {
        match std::mem::replace(&mut self.at, At::Content) {
            At::Content => self.content(c, out),
            At::Opened { list } => self.opened(list, c, out),
            At::Name(start) => self.name(start, c, out),
            At::Object { object, list } => self.object(object, list, c, out),
            At::Named(name) => self.named(name, c, out),
            At::Arguments(value) => self.arguments(value, c, out),
            At::Behind { list, closed } => self.behind(list, closed, c, out),
            At::Over => self.at = At::Over,
        }
    }

    fn content(&mut self, c: char, out: &mut Parsed) {
        self.held.push(c);
        let open = self.reading.format.open();
        if open.is_empty() {
            return self.whole(out);
        }
        if open.iter().any(|mark| self.held.ends_with(mark)) {
            self.at = At::Opened { list: false };
            return;
        }
        // White space before a mark belongs to it.
        let keep = open.iter().map(|mark| beginning_of(&self.held, mark)).max().unwrap_or(0);
        let content = self.held[..self.held.len() - keep].trim_end().len();
        let rest = self.held.split_off(content);
        out.content += &std::mem::replace(&mut self.held, rest);
    }

    /// Formats without a mark: the answer is a call if it begins like one.
    fn whole(&mut self, out: &mut Parsed) {
        let text = self.held.trim_start();
        let lead = LEADS.iter().find(|lead| text.starts_with(**lead));
        let rest = lead.map_or(text, |lead| text[lead.len()..].trim_start());
        match rest {
            _ if self.begun => {}
            "{" => return self.at = At::Object { object: Object::new(), list: false },
            "[" => return self.at = At::Opened { list: true },
            "" => return,
            _ if LEADS.iter().any(|lead| lead.starts_with(text)) => return,
            _ => {}
        }
        self.begun = true;
        out.content += &std::mem::take(&mut self.held);
    }

    /// What was held is no call. The last character may begin something.
    fn no_call(&mut self, out: &mut Parsed) {
        let last = self.held.pop();
        out.content += &std::mem::take(&mut self.held);
        self.begun = true;
        self.at = At::Content;
        last.into_iter().for_each(|c| self.content(c, out));
    }

    fn opened(&mut self, list: bool, c: char, out: &mut Parsed) {
        let start = self.held.len();
        self.held.push(c);
        match c {
            '{' => self.at = At::Object { object: Object::new(), list },
            '[' if !list => self.at = At::Opened { list: true },
            c if c.is_whitespace() => self.at = At::Opened { list },
            _ if self.reading.format == Format::MistralNamed && !list => self.follow_name(start, out),
            _ => self.no_call(out),
        }
    }

    fn name(&mut self, start: usize, c: char, out: &mut Parsed) {
        self.held.push(c);
        self.follow_name(start, out);
    }

    fn follow_name(&mut self, start: usize, out: &mut Parsed) {
        let text = &self.held[start..];
        let fits =
            |name: &&String| name.starts_with(text) || text.strip_prefix(name.as_str()).is_some_and(may_end_name);
        let Some(name) = self.reading.names.iter().filter(fits).max_by_key(|name| name.len().min(text.len())) else {
            return self.no_call(out);
        };
        let name = name.clone();
        match text.strip_prefix(name.as_str()).map(str::trim_start) {
            Some(rest) if rest.ends_with(ARGS) => self.at = At::Named(name),
            // Some write the arguments right behind the name.
            Some("{") => {
                self.held.pop();
                self.named(name, '{', out);
            }
            Some(_) | None => self.at = At::Name(start),
        }
    }

    fn named(&mut self, name: String, c: char, out: &mut Parsed) {
        self.held.push(c);
        match c {
            '{' => {
                self.begin(name, "{", out);
                let mut value = Value::default();
                value.push(c);
                self.at = At::Arguments(value);
            }
            c if c.is_whitespace() => self.at = At::Named(name),
            _ => self.no_call(out),
        }
    }

    fn arguments(&mut self, mut value: Value, c: char, out: &mut Parsed) {
        self.more(c.encode_utf8(&mut [0; 4]), out);
        match value.push(c) {
            Took::Last => self.call_ended(false),
            Took::Part | Took::Behind => self.at = At::Arguments(value),
        }
    }

    fn object(&mut self, mut object: Object, list: bool, c: char, out: &mut Parsed) {
        let said = object.push(c, &self.reading.names);
        if !object.is_call() {
            self.held.push(c);
        }
        match said {
            Said::Nothing => {}
            Said::Call { name, arguments } => self.begin(name, &arguments, out),
            Said::Arguments(c) => self.more(c.encode_utf8(&mut [0; 4]), out),
            Said::No => return self.no_call(out),
        }
        match object.end() {
            None => self.at = At::Object { object, list },
            Some(End::Here) => self.call_ended(list),
            Some(End::Before) => {
                self.call_ended(list);
                self.take(c, out);
            }
        }
    }

    fn call_ended(&mut self, list: bool) {
        self.at = if self.reading.parallel { At::Behind { list, closed: false } } else { At::Over };
    }

    /// Commas, brackets, marks and white space between calls and behind the last mean nothing.
    fn behind(&mut self, list: bool, closed: bool, c: char, out: &mut Parsed) {
        self.held.push(c);
        let text = self.held.trim_start();
        let format = self.reading.format;
        match text {
            "" => self.at = At::Behind { list, closed },
            "," if list => self.at = At::Opened { list },
            "]" if list => self.framed(false, self.close().is_none()),
            "{" if !closed => self.at = At::Object { object: Object::new(), list },
            ";" if format == Format::Json && !list => self.at = At::Opened { list },
            text if !closed && self.close() == Some(text) => self.framed(false, true),
            text if !list && format.open().contains(&text) => self.at = At::Opened { list: false },
            text if self.is_frame(text, list, closed) || self.may_open(text, list) => {
                self.at = At::Behind { list, closed };
            }
            _ => {
                let held = std::mem::take(&mut self.held);
                self.begun = true;
                held.chars().for_each(|c| self.take(c, out));
            }
        }
    }

    fn framed(&mut self, list: bool, closed: bool) {
        self.held.clear();
        self.at = At::Behind { list, closed };
    }

    /// Behind a call: the beginning of what belongs to it.
    fn is_frame(&self, text: &str, list: bool, closed: bool) -> bool {
        let text = text.trim_start();
        text.is_empty() || !closed && !list && self.close().is_some_and(|close| close.starts_with(text))
    }

    /// What may stand behind calls: the format's mark, or the end of what models put around JSON.
    fn close(&self) -> Option<&'static str> {
        let format = self.reading.format;
        format.close().or((format == Format::Json).then_some("```"))
    }

    fn may_open(&self, text: &str, list: bool) -> bool {
        !list && self.reading.format.open().iter().any(|mark| mark.starts_with(text))
    }

    fn begin(&mut self, name: String, arguments: &str, out: &mut Parsed) {
        self.held.clear();
        out.calls.push(CallDelta {
            index: self.calls,
            begins: Some((id(self.key, self.calls), name)),
            arguments: arguments.to_owned(),
        });
        self.calls += 1;
    }

    /// More arguments of the last call; parts of one piece of text are one part.
    fn more(&mut self, text: &str, out: &mut Parsed) {
        let index = self.calls.saturating_sub(1);
        match out.calls.last_mut().filter(|last| last.index == index) {
            Some(last) => last.arguments += text,
            None => out.calls.push(CallDelta { index, begins: None, arguments: text.to_owned() }),
        }
    }
}

/// What separates two calls.
fn between(c: char) -> bool {
    c.is_whitespace() || matches!(c, ',' | ';')
}

/// Behind a function's name: what stands before its arguments, or the beginning of it.
fn may_end_name(rest: &str) -> bool {
    let rest = rest.trim_start();
    let id = || rest.strip_prefix(CALL_ID).is_some_and(|id| id.len() <= ID_BYTES_MAX);
    rest == "{" || ARGS.starts_with(rest) || CALL_ID.starts_with(rest) || id()
}

/// Letters and digits of a call.
fn id(key: u64, call: u32) -> String {
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let random = mix(key ^ mix(u64::from(call)));
    (0..ID_CHARS as u32).map(|i| LETTERS[(random / 62u64.pow(i) % 62) as usize] as char).collect()
}

/// How many of `text`'s last bytes are the first of `mark`.
fn beginning_of(text: &str, mark: &str) -> usize {
    let longest = mark.len().min(text.len());
    let fits = |n: &usize| {
        text.is_char_boundary(text.len() - n) && mark.as_bytes().starts_with(&text.as_bytes()[text.len() - n..])
    };
    (1..=longest).rev().find(fits).unwrap_or(0)
}
