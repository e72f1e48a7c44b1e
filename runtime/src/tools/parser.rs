//! An answer's text, piece by piece → content and tool calls, in the OpenAI style: a call's name comes once, its arguments as
//! fragments.

use super::{
    Format,
    object::{Object, Said},
};
use std::hash::{BuildHasher, RandomState};

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
    /// Among calls: behind the opening mark, or between two.
    Calls,
    /// In a name that stands before its arguments.
    Name(String),
    /// In a call's object, with its text until its name is known.
    Object(Object, String),
    /// In arguments that stand alone: a name came before.
    Arguments(Bare),
}

/// Reads calls out of one choice's text.
pub struct Parser {
    format: Format,
    at: At,
    /// Content that may still be the beginning of a mark.
    held: String,
    /// Something other than white space has come.
    begun: bool,
    /// Calls that have begun.
    calls: u32,
}

const PYTHON_TAG: &str = "<|python_tag|>";
const ARGS: &str = "[ARGS]";

impl Parser {
    /// Before any text.
    pub fn new(format: Format) -> Self {
        Self { format, at: At::Content, held: String::new(), begun: false, calls: 0 }
    }

    /// A call has begun.
    pub fn has_calls(&self) -> bool {
        self.calls > 0
    }

    /// Takes more text.
    pub fn push(&mut self, text: &str) -> Parsed {
        let mut out = Parsed::default();
        text.chars().for_each(|c| self.take(c, &mut out));
        out
    }

    /// The text has ended: what was held back, and what looked like a call and was none.
    pub fn finish(&mut self) -> Parsed {
        let mut out = Parsed { content: std::mem::take(&mut self.held), calls: Vec::new() };
        match std::mem::replace(&mut self.at, At::Content) {
            At::Object(_, raw) | At::Name(raw) => out.content += &raw,
            At::Content | At::Calls | At::Arguments(_) => {}
        }
        out
    }

    fn take(&mut self, c: char, out: &mut Parsed) {
        match std::mem::replace(&mut self.at, At::Calls) {
            At::Content => {
                self.at = At::Content;
                self.content(c, out);
            }
            At::Calls => self.between(c),
            At::Name(name) => self.name(name, c, out),
            At::Object(object, raw) => self.object(object, raw, c, out),
            At::Arguments(bare) => self.arguments(bare, c, out),
        }
    }

    fn content(&mut self, c: char, out: &mut Parsed) {
        self.held.push(c);
        let Some(open) = self.format.open() else { return self.whole(c, out) };
        if let Some(before) = self.held.strip_suffix(open) {
            out.content += before.trim_end();
            self.held.clear();
            self.at = At::Calls;
            return;
        }
        // White space before a mark belongs to it.
        let keep = beginning_of(&self.held, open);
        let content = self.held.len() - keep;
        let content = self.held[..content].trim_end().len();
        let rest = self.held.split_off(content);
        out.content += &std::mem::replace(&mut self.held, rest);
    }

    /// Formats without a mark: the answer is a call if it begins like one.
    fn whole(&mut self, c: char, out: &mut Parsed) {
        let text = self.held.trim_start();
        if self.begun || !(text.is_empty() || PYTHON_TAG.starts_with(text) || c == '{' && text == "{") {
            if text.strip_prefix(PYTHON_TAG).is_some_and(|rest| rest.trim_start() == "{") && !self.begun {
                return self.begin_object();
            }
            if !self.begun && text.strip_prefix(PYTHON_TAG).is_some_and(|rest| rest.trim().is_empty()) {
                return;
            }
            self.begun = true;
            out.content += &std::mem::take(&mut self.held);
            return;
        }
        if text == "{" {
            self.begin_object();
        }
    }

    fn begin_object(&mut self) {
        let raw = std::mem::take(&mut self.held);
        self.at = At::Object(Object::default(), raw);
    }

    /// Brackets, commas, white space and closing marks between calls mean nothing.
    fn between(&mut self, c: char) {
        match (self.format, c) {
            (_, '{') => self.at = At::Object(Object::default(), "{".into()),
            (Format::MistralNamed, c) if !c.is_whitespace() && c != '[' => self.at = At::Name(c.into()),
            (Format::Hermes | Format::Phi, '>') => self.at = self.behind_close(),
            _ => {}
        }
    }

    /// A closing mark has ended; the next opening one, if any, stands in content again.
    fn behind_close(&self) -> At {
        debug_assert!(self.format.close().is_some_and(|close| close.ends_with('>')));
        At::Content
    }

    fn name(&mut self, mut name: String, c: char, out: &mut Parsed) {
        name.push(c);
        let known = match name.strip_suffix(ARGS) {
            Some(known) => known.to_owned(),
            // Some write the arguments right behind the name.
            None if c == '{' => name[..name.len() - 1].to_owned(),
            None => return self.at = At::Name(name),
        };
        self.begin(known.trim().to_owned(), out);
        let mut bare = Bare::default();
        if c == '{' {
            bare.push(c);
            self.more("{", out);
        }
        self.at = At::Arguments(bare);
    }

    fn arguments(&mut self, mut bare: Bare, c: char, out: &mut Parsed) {
        if !(bare.depth == 0 && c.is_whitespace()) {
            self.more(c.encode_utf8(&mut [0; 4]), out);
        }
        bare.push(c);
        self.at = if bare.is_over { At::Content } else { At::Arguments(bare) };
    }

    fn object(&mut self, mut object: Object, mut raw: String, c: char, out: &mut Parsed) {
        raw.push(c);
        match object.push(c) {
            Said::Nothing => {}
            Said::Name(name) => {
                self.begin(name, out);
                self.more(&object.early(), out);
                raw.clear();
            }
            Said::Arguments(c) => self.more(c.encode_utf8(&mut [0; 4]), out),
            Said::End => {
                if !object.is_named() {
                    // JSON, but no call.
                    out.content += &raw;
                    self.begun = true;
                    self.at = At::Content;
                }
                return;
            }
        }
        if object.is_named() {
            raw.clear();
        }
        self.at = At::Object(object, raw);
    }

    fn begin(&mut self, name: String, out: &mut Parsed) {
        let id = format!("call_{:016x}", RandomState::new().hash_one(self.calls));
        out.calls.push(CallDelta { index: self.calls, begins: Some((id, name)), arguments: String::new() });
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

/// An object without anything around it.
#[derive(Debug, Default)]
struct Bare {
    depth: usize,
    in_string: bool,
    escaped: bool,
    is_over: bool,
}

impl Bare {
    fn push(&mut self, c: char) {
        match c {
            _ if self.escaped => self.escaped = false,
            '\\' if self.in_string => self.escaped = true,
            '"' => self.in_string = !self.in_string,
            '{' | '[' if !self.in_string => self.depth += 1,
            '}' | ']' if !self.in_string => {
                self.depth = self.depth.saturating_sub(1);
                self.is_over = self.depth == 0;
            }
            _ => {}
        }
    }
}

/// How many of `text`'s last bytes are the first of `mark`.
fn beginning_of(text: &str, mark: &str) -> usize {
    let longest = mark.len().min(text.len());
    let fits = |n: &usize| {
        text.is_char_boundary(text.len() - n) && mark.as_bytes().starts_with(&text.as_bytes()[text.len() - n..])
    };
    (1..=longest).rev().find(fits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Content, and each call's name and arguments; the text in pieces of these lengths.
    fn parse(format: Format, text: &str, cuts: &[usize]) -> (String, Vec<(String, String)>) {
        let mut parser = Parser::new(format);
        let (mut content, mut calls) = (String::new(), Vec::<(String, String)>::new());
        let chars: Vec<char> = text.chars().collect();
        let (mut rest, mut cuts) = (&chars[..], cuts.iter().cycle());
        let mut gather = |parsed: Parsed| {
            content += &parsed.content;
            for delta in parsed.calls {
                if let Some((id, name)) = delta.begins {
                    assert!(id.starts_with("call_"));
                    assert_eq!(delta.index as usize, calls.len());
                    calls.push((name, String::new()));
                }
                calls[delta.index as usize].1 += &delta.arguments;
            }
        };
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(rest.len().min(*cuts.next().unwrap_or(&1)));
            gather(parser.push(&piece.iter().collect::<String>()));
            rest = more;
        }
        gather(parser.finish());
        (content, calls)
    }

    #[allow(clippy::type_complexity, reason = "a table")]
    const CASES: [(Format, &str, &str, &[(&str, &str)]); 15] = [
        (
            Format::Hermes,
            "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\"]}}\n</tool_call>",
            "",
            &[("f", r#"{"a": [1, "}"]}"#)],
        ),
        (
            Format::Hermes,
            "Let me look. <tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n<tool_call>{\"arguments\": {\"x\":\"ü\"}, \"name\": \"g\"}</tool_call>",
            "Let me look.",
            &[("f", "{}"), ("g", r#"{"x":"ü"}"#)],
        ),
        (Format::Hermes, "no call < here, <tool", "no call < here, <tool", &[]),
        (
            Format::Hermes,
            "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": \"\\\"{\"",
            "",
            &[("f", "{\"a\": \"\\\"{\"")],
        ),
        (
            Format::Mistral,
            "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"a\": 1}}, {\"name\": \"g\", \"arguments\": {}}]",
            "",
            &[("f", r#"{"a": 1}"#), ("g", "{}")],
        ),
        (
            Format::MistralNamed,
            "[TOOL_CALLS]get_it[ARGS]{\"a\": {\"b\": 2}}[TOOL_CALLS]g[ARGS]{}",
            "",
            &[("get_it", r#"{"a": {"b": 2}}"#), ("g", "{}")],
        ),
        (Format::MistralNamed, "[TOOL_CALLS]f{\"a\": 1}", "", &[("f", r#"{"a": 1}"#)]),
        (
            Format::Phi,
            "<|tool_call|>[{\"name\": \"f\", \"arguments\": {\"q\": \"x\"}}]<|/tool_call|>",
            "",
            &[("f", r#"{"q": "x"}"#)],
        ),
        (Format::Json, "{\"name\": \"f\", \"parameters\": {\"a\": null}}", "", &[("f", r#"{"a": null}"#)]),
        (Format::Json, "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}", "", &[("f", "{}")]),
        (
            Format::Json,
            " \n{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {\"b\":[]}}",
            "",
            &[("f", "{}"), ("g", r#"{"b":[]}"#)],
        ),
        (Format::Json, "It is {\"name\": 1}.", "It is {\"name\": 1}.", &[]),
        (Format::Json, "{\"answer\": 42} is all", "{\"answer\": 42} is all", &[]),
        (Format::Json, "{\"half\": ", "{\"half\": ", &[]),
        (Format::Json, "<|python", "<|python", &[]),
    ];

    #[test]
    fn calls_of_every_format_are_read_and_the_rest_is_content() {
        for (format, text, content, calls) in CASES {
            let calls: Vec<_> =
                calls.iter().map(|(name, arguments)| (name.to_string(), arguments.to_string())).collect();
            for cuts in [&[1][..], &[1000], &[3, 1, 7]] {
                let got = parse(format, text, cuts);
                assert_eq!(got, (content.to_owned(), calls.clone()), "{format:?}: {text}");
            }
        }
    }

    proptest! {
        #[test]
        fn cutting_elsewhere_changes_nothing_and_nothing_panics(
            format in 0usize..5, parts in proptest::collection::vec(0usize..14, 0..24), cuts in proptest::collection::vec(1usize..9, 1..30)
        ) {
            let format = [Format::Hermes, Format::Mistral, Format::MistralNamed, Format::Phi, Format::Json][format];
            let words = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|tool_call|>", "{", "}", "\"name\": \"f\"", ", ",
                "\"arguments\": ", "[1, 2]", "\"\\", "é ", "<|python_tag|>"];
            let text: String = parts.iter().map(|&part| words[part]).collect();
            prop_assert_eq!(parse(format, &text, &cuts), parse(format, &text, &[1]));
        }
    }
}
