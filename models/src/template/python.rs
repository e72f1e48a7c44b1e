//! How Python writes values: Jinja prints `None`, `True` and `['a', 1.5]` where minijinja's own words differ.

use super::json::python_float;
use minijinja::{Error, Output, State, Value, value::ValueKind};
use std::fmt::Write;

/// Deepest nesting that is written out; JSON deeper than this is refused before it gets here.
const DEPTH_MAX: usize = 128;

/// The environment's formatter: Python's `str`.
pub(super) fn write(out: &mut Output, _: &State, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => out.write_str(text).map_err(Error::from),
        None => out.write_str(&text(value)).map_err(Error::from),
    }
}

/// The `string` filter.
pub(super) fn string(value: &Value) -> String {
    value.as_str().map_or_else(|| text(value), str::to_owned)
}

fn text(value: &Value) -> String {
    let mut out = String::new();
    repr(&mut out, value, 0);
    out
}

/// Python's `repr`, but nothing for what is undefined.
fn repr(out: &mut String, value: &Value, depth: usize) {
    match value.kind() {
        ValueKind::Undefined => {}
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::String => quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Number if !value.is_integer() => match f64::try_from(value.clone()) {
            Ok(x) => out.push_str(&python_float(x)),
            Err(_) => out.push_str(&value.to_string()),
        },
        ValueKind::Seq | ValueKind::Iterable if depth < DEPTH_MAX => {
            list(out, ['[', ']'], value, |out, item| repr(out, item, depth + 1));
        }
        ValueKind::Map if depth < DEPTH_MAX => list(out, ['{', '}'], value, |out, key| {
            repr(out, key, depth + 1);
            out.push_str(": ");
            repr(out, &value.get_item(key).unwrap_or_default(), depth + 1);
        }),
        _ => {
            let _ = write!(out, "{value}");
        }
    }
}

fn list(out: &mut String, brackets: [char; 2], value: &Value, mut item: impl FnMut(&mut String, &Value)) {
    out.push(brackets[0]);
    for (index, each) in value.try_iter().into_iter().flatten().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        item(out, &each);
    }
    out.push(brackets[1]);
}

/// Single quotes, unless only double ones spare an escape.
fn quoted(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if u32::from(c) < 0x20 || u32::from(c) == 0x7f => {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}
