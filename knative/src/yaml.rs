//! JSON values as block-style YAML that people can read and review.
//!
//! **Invariant:** every YAML 1.1 and 1.2 reader gives back the same value: what could be read as anything but a string
//! is quoted as JSON quotes it, which both versions take.

use serde_json::{Map, Value};
use std::fmt::Write;

/// One document, ending with a newline.
pub(crate) fn to_string(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => mapping(&mut out, map, 0, false),
        Value::Array(items) if !items.is_empty() => sequence(&mut out, items, 0),
        scalar => {
            push_scalar(&mut out, scalar);
            out.push('\n');
        }
    }
    out
}

/// `inline`: the first key continues a line that was begun, after `- `.
fn mapping(out: &mut String, map: &Map<String, Value>, indent: usize, inline: bool) {
    for (i, (key, value)) in map.iter().enumerate() {
        if i > 0 || !inline {
            push_indent(out, indent);
        }
        push_text(out, key);
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                mapping(out, inner, indent + 2, false);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                sequence(out, items, indent + 2);
            }
            scalar => {
                out.push(' ');
                push_scalar(out, scalar);
                out.push('\n');
            }
        }
    }
}

fn sequence(out: &mut String, items: &[Value], indent: usize) {
    for item in items {
        push_indent(out, indent);
        out.push_str("- ");
        match item {
            Value::Object(inner) if !inner.is_empty() => mapping(out, inner, indent + 2, true),
            // A sequence within a sequence, in JSON's spelling: both YAML versions take it.
            scalar => {
                push_scalar(out, scalar);
                out.push('\n');
            }
        }
    }
}

fn push_indent(out: &mut String, indent: usize) {
    out.extend(std::iter::repeat_n(' ', indent));
}

fn push_scalar(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => push_text(out, text),
        other => write!(out, "{other}").expect("writing to a string cannot fail"),
    }
}

fn push_text(out: &mut String, text: &str) {
    if is_plain(text) {
        out.push_str(text);
    } else {
        write!(out, "{}", Value::from(text)).expect("writing to a string cannot fail");
    }
}

/// Whether the text needs no quotes in any YAML version: it starts with a letter or `/`, holds nothing that YAML gives a
/// meaning to, and is no word such as `yes` or `null`.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | '=' | '@' | ':');
    let first = |c: char| c.is_ascii_alphabetic() || c == '/';
    text.starts_with(first)
        && text.chars().all(safe)
        && !text.ends_with(':')
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(value: Value, expected: &str) {
        assert_eq!(to_string(&value), expected);
    }

    #[test]
    fn nested_blocks_are_indented_by_two() {
        let value = json!({ "a": { "b": 1 }, "c": [{ "d": true, "e": [] }, "f"], "g": {} });
        check(value, "a:\n  b: 1\nc:\n  - d: true\n    e: []\n  - f\ng: {}\n");
    }

    #[test]
    fn text_that_could_be_read_as_something_else_is_quoted() {
        for text in
            ["yes", "No", "null", "1", "1.5", "0x10", "", " a", "a b", "a: b", "a:", "#a", "- a", "~", "é", "a\nb"]
        {
            check(json!(text), &format!("{}\n", Value::from(text)));
        }
    }

    #[test]
    fn ordinary_words_paths_and_images_are_plain() {
        for text in ["serve", "/models/a.snapshot", "example.com/team/pilotlight:1.0", "smollm2=/models/a", "30s-x"] {
            let plain = text.starts_with(|c: char| !c.is_ascii_digit());
            check(json!(text), &if plain { format!("{text}\n") } else { format!("{}\n", Value::from(text)) });
        }
    }
}
