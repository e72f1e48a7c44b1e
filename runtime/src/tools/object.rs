//! One call as a JSON object that arrives character by character: its name, and its arguments as they are written.

/// What a character told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Nothing yet.
    Nothing,
    /// The call's name is known now.
    Name(String),
    /// More of the arguments' text.
    Arguments(char),
    /// The object is over.
    End,
}

/// Where in the object we are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum At {
    /// Before a key.
    #[default]
    Keys,
    /// In a key, with what came of it.
    Key(String),
    /// Behind a key, before its value.
    Colon(String),
    /// In the value of this key.
    Value(String),
}

/// Reads one object; the opening brace has come already.
#[derive(Clone, Debug, Default)]
pub(super) struct Object {
    at: At,
    /// Of the value: brackets that are open, whether inside a string, and behind a backslash.
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// The value as written.
    value: String,
    /// Arguments that came before the name.
    early: String,
    named: bool,
}

impl Object {
    /// Takes a character.
    pub fn push(&mut self, c: char) -> Said {
        match std::mem::take(&mut self.at) {
            At::Keys => match c {
                '"' => self.at = At::Key(String::new()),
                '}' => return Said::End,
                _ => {}
            },
            At::Key(mut key) => {
                self.at = if c == '"' {
                    At::Colon(key)
                } else {
                    key.push(c);
                    At::Key(key)
                };
            }
            At::Colon(key) => self.at = if c == ':' { At::Value(key) } else { At::Colon(key) },
            At::Value(key) => return self.in_value(key, c),
        }
        Said::Nothing
    }

    fn in_value(&mut self, key: String, c: char) -> Said {
        let ends = self.depth == 0 && !self.in_string && matches!(c, ',' | '}');
        if ends {
            let value = std::mem::take(&mut self.value);
            if is_arguments(&key) && !self.named {
                self.early = value;
            }
            return if c == '}' { Said::End } else { Said::Nothing };
        }
        self.at = At::Value(key);
        if self.value.is_empty() && c.is_whitespace() {
            return Said::Nothing;
        }
        self.follow(c);
        self.value.push(c);
        match &self.at {
            At::Value(key) if is_arguments(key) && self.named => Said::Arguments(c),
            At::Value(key) if key == "name" && self.depth == 0 && !self.in_string && c == '"' => {
                self.named = true;
                Said::Name(serde_json::from_str(&self.value).unwrap_or_default())
            }
            _ => Said::Nothing,
        }
    }

    /// The name is known.
    pub fn is_named(&self) -> bool {
        self.named
    }

    /// Arguments that came before the name, once.
    pub fn early(&mut self) -> String {
        std::mem::take(&mut self.early)
    }

    fn follow(&mut self, c: char) {
        if self.in_string {
            match c {
                _ if self.escaped => self.escaped = false,
                '\\' => self.escaped = true,
                '"' => self.in_string = false,
                _ => {}
            }
            return;
        }
        match c {
            '"' => self.in_string = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

fn is_arguments(key: &str) -> bool {
    matches!(key, "arguments" | "parameters")
}
