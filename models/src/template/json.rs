//! `tojson` as transformers defines it: Python's `json.dumps` with `ensure_ascii=False`.

use minijinja::{Error, ErrorKind, Value, value::Kwargs};
use serde::Serialize;
use serde_json::{Serializer, ser::Formatter};
use std::io::{self, Write};

/// The filter. `indent`, `separators` and `sort_keys` are Python's; `ensure_ascii` is accepted and, as there, false.
pub(super) fn tojson(value: &Value, positional_indent: Option<Value>, options: Kwargs) -> Result<Value, Error> {
    let indent: Option<Value> = options.get("indent")?;
    let separators: Option<(String, String)> = options
        .get::<Option<Vec<String>>>("separators")?
        .map(|pair| <[String; 2]>::try_from(pair).map(Into::into))
        .transpose()
        .map_err(|_| Error::new(ErrorKind::InvalidOperation, "tojson: separators are two strings"))?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let indent = indent.or(positional_indent).filter(|value| !value.is_none() && !value.is_undefined());
    let style = Style::new(indent.as_ref().map(spaces).transpose()?, separators);
    let mut json = serde_json::to_value(value).map_err(invalid)?;
    if sort_keys.unwrap_or(false) {
        json.sort_all_objects();
    }
    let mut out = Vec::new();
    json.serialize(&mut Serializer::with_formatter(&mut out, style)).map_err(invalid)?;
    // Marked safe, as the filter of every Jinja is: the text is what it is.
    String::from_utf8(out).map(Value::from_safe_string).map_err(invalid)
}

/// Python's `json.dumps` as it is without options.
pub(super) fn python_json(json: &serde_json::Value) -> String {
    let mut out = Vec::new();
    json.serialize(&mut Serializer::with_formatter(&mut out, Style::new(None, None))).expect("a vector takes all");
    String::from_utf8(out).expect("JSON is text")
}

const INDENT_MAX: usize = 64;

/// What one level of indentation is: a number of spaces, or a string.
fn spaces(indent: &Value) -> Result<String, Error> {
    match (indent.as_str(), indent.as_usize()) {
        (Some(text), _) => Ok(text.to_owned()),
        (None, Some(count)) if count <= INDENT_MAX => Ok(" ".repeat(count)),
        _ => Err(Error::new(ErrorKind::InvalidOperation, format!("tojson: indent {indent}"))),
    }
}

fn invalid(error: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::BadSerialization, error.to_string())
}

/// Python's separators: `, ` and `: `, with the comma's space gone where lines are broken.
struct Style {
    indent: Option<String>,
    item: String,
    key: String,
    depth: usize,
    /// Whether the innermost list or object has had an element.
    filled: bool,
}

impl Style {
    fn new(indent: Option<String>, separators: Option<(String, String)>) -> Self {
        let comma = if indent.is_some() { "," } else { ", " };
        let (item, key) = separators.unwrap_or_else(|| (comma.into(), ": ".into()));
        Self { indent, item, key, depth: 0, filled: false }
    }

    fn line<W: ?Sized + Write>(&self, out: &mut W) -> io::Result<()> {
        let Some(indent) = &self.indent else { return Ok(()) };
        out.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| out.write_all(indent.as_bytes()))
    }

    fn open<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.filled = false;
        out.write_all(bracket)
    }

    fn close<W: ?Sized + Write>(&mut self, out: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if std::mem::replace(&mut self.filled, true) {
            self.line(out)?;
        }
        out.write_all(bracket)
    }

    fn item<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if !first {
            out.write_all(self.item.as_bytes())?;
        }
        self.line(out)
    }
}

impl Formatter for Style {
    fn begin_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.item(out, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.open(out, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        self.close(out, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.item(out, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(self.key.as_bytes())
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn write_f64<W: ?Sized + Write>(&mut self, out: &mut W, x: f64) -> io::Result<()> {
        out.write_all(python_float(x).as_bytes())
    }
}

/// Python's `repr` of a finite float: exponents from 1e16 on and below 1e-4, signed and with two digits at least.
pub(super) fn python_float(x: f64) -> String {
    let magnitude = x.abs();
    if x == 0.0 || (1e-4..1e16).contains(&magnitude) {
        return format!("{x:?}");
    }
    let text = format!("{x:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{digits}e{sign}{exponent:0>2}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::Value as Json;

    fn check(json: &str, options: &str, expected: &str) {
        let mut environment = minijinja::Environment::new();
        environment.add_filter("tojson", tojson);
        let value: Json = serde_json::from_str(json).unwrap();
        let text =
            environment.render_str(&format!("{{{{ x|tojson({options}) }}}}"), minijinja::context! { x => value });
        assert_eq!(text.unwrap(), expected, "{json} {options}");
    }

    /// Expected texts are CPython 3's.
    #[test]
    fn writes_what_python_writes() {
        let json = r#"{"b": [1, 2.0, true, null], "a": {"é": "x\n\"\u001f<&>'"}, "e": [], "o": {}}"#;
        check(json, "", "{\"b\": [1, 2.0, true, null], \"a\": {\"é\": \"x\\n\\\"\\u001f<&>'\"}, \"e\": [], \"o\": {}}");
        check(
            r#"{"b": [1, {}], "a": {"c": []}}"#,
            "indent=2",
            "{\n  \"b\": [\n    1,\n    {}\n  ],\n  \"a\": {\n    \"c\": []\n  }\n}",
        );
        check(r#"{"b": 1, "a": 2}"#, "sort_keys=true", r#"{"a": 2, "b": 1}"#);
        check("[1, 2]", "separators=[',', ':']", "[1,2]");
        check(
            "[1e16, 1e-5, 0.0001, 1.5e300, 123456789.25, -0.0]",
            "",
            "[1e+16, 1e-05, 0.0001, 1.5e+300, 123456789.25, -0.0]",
        );
    }
}
