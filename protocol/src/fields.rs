//! Reading JSON objects field by field, with errors that name the field.
//!
//! `null` means absent. Unknown fields are ignored by never being asked for.

use crate::error::{ApiError, ErrorKind};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::ops::RangeInclusive;

/// No request body is larger.
pub const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Objects with no more fields are searched in their order: cheaper than to hash every name that is asked for.
const FIELDS_SEARCHED: usize = 16;
/// No request nests arrays and objects deeper.
pub const JSON_DEPTH_MAX: usize = 64;

/// What routing needs of a request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peek {
    /// The model asked for.
    pub model: String,
    /// The answer is wanted as server-sent events.
    pub stream: bool,
}

/// Reads `model` and `stream` and skips the rest without keeping it.
pub fn peek(body: &[u8]) -> Result<Peek, ApiError> {
    #[derive(Deserialize)]
    struct Raw {
        #[serde(default)]
        model: Value,
        #[serde(default)]
        stream: Value,
    }
    check_bounds(body)?;
    let raw: Raw = serde_json::from_slice(body).map_err(not_json)?;
    let map = Map::from_iter([("model".to_owned(), raw.model), ("stream".to_owned(), raw.stream)]);
    let fields = Fields::root(&map);
    Ok(Peek { model: fields.model()?, stream: fields.bool("stream")?.unwrap_or(false) })
}

/// The body as a JSON object within the limits.
pub(crate) fn object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    check_bounds(body)?;
    match serde_json::from_slice(body).map_err(not_json)? {
        Value::Object(map) => Ok(map),
        other => Err(invalid(format!("the body must be a JSON object, not {}", describe(&other)))),
    }
}

fn check_bounds(body: &[u8]) -> Result<(), ApiError> {
    if body.len() > BODY_BYTES_MAX {
        let message = format!("the body has {} bytes; the limit is {BODY_BYTES_MAX}", body.len());
        return Err(ApiError::new(ErrorKind::TooLarge, message));
    }
    match depth_exceeded_at(body) {
        Some(at) => Err(invalid(format!("the body nests deeper than {JSON_DEPTH_MAX} levels at byte {at}"))),
        None => Ok(()),
    }
}

/// The offset of the bracket that opens one level too many.
fn depth_exceeded_at(body: &[u8]) -> Option<usize> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for (at, byte) in body.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' if depth == JSON_DEPTH_MAX => return Some(at),
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    None
}

fn not_json(e: serde_json::Error) -> ApiError {
    invalid(format!("the body is not valid JSON: {e}"))
}

fn invalid(message: String) -> ApiError {
    ApiError::new(ErrorKind::InvalidRequest, message)
}

/// What a value is, for an error's second half.
pub(crate) fn describe(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

pub(crate) fn expected(path: &str, what: &str, got: &Value) -> ApiError {
    ApiError::field(path, format_args!("expected {what}, got {}", describe(got)))
}

/// One object of a request and the path that led to it.
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    prefix: String,
}

impl<'a> Fields<'a> {
    pub fn root(map: &'a Map<String, Value>) -> Self {
        Self { map, prefix: String::new() }
    }

    /// `value` as an object that was found at `path`.
    pub fn nested(value: &'a Value, path: &str) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Self { map, prefix: format!("{path}.") }),
            other => Err(expected(path, "an object", other)),
        }
    }

    pub fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The value, unless absent or `null`.
    pub fn get(&self, name: &str) -> Option<&'a Value> {
        let found = if self.map.len() <= FIELDS_SEARCHED {
            self.map.iter().find_map(|(field, value)| (field == name).then_some(value))
        } else {
            self.map.get(name)
        };
        found.filter(|v| !v.is_null())
    }

    pub fn required(&self, name: &str) -> Result<&'a Value, ApiError> {
        self.get(name).ok_or_else(|| ApiError::field(self.path(name), "is required"))
    }

    pub fn bool(&self, name: &str) -> Result<Option<bool>, ApiError> {
        self.get(name).map(|v| v.as_bool().ok_or_else(|| expected(&self.path(name), "a boolean", v))).transpose()
    }

    pub fn string(&self, name: &str) -> Result<Option<&'a str>, ApiError> {
        self.get(name).map(|v| v.as_str().ok_or_else(|| expected(&self.path(name), "a string", v))).transpose()
    }

    pub fn array(&self, name: &str) -> Result<Option<&'a [Value]>, ApiError> {
        let slice =
            |v: &'a Value| v.as_array().map(Vec::as_slice).ok_or_else(|| expected(&self.path(name), "an array", v));
        self.get(name).map(slice).transpose()
    }

    pub fn object(&self, name: &str) -> Result<Option<Fields<'a>>, ApiError> {
        self.get(name).map(|v| Fields::nested(v, &self.path(name))).transpose()
    }

    /// A number within `range`.
    pub fn number(&self, name: &str, range: RangeInclusive<f32>) -> Result<Option<f32>, ApiError> {
        self.get(name).map(|v| number(v, &self.path(name), range)).transpose()
    }

    /// A whole number within `range`.
    pub fn integer(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        self.get(name).map(|v| integer(v, &self.path(name), range)).transpose()
    }

    pub fn model(&self) -> Result<String, ApiError> {
        match self.string("model")? {
            None => Err(ApiError::field("model", "is required")),
            Some("") => Err(ApiError::field("model", "must not be empty")),
            Some(model) => Ok(model.to_owned()),
        }
    }

    pub fn entries(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.map.iter()
    }
}

pub(crate) fn number(value: &Value, path: &str, range: RangeInclusive<f32>) -> Result<f32, ApiError> {
    let wide = value.as_f64().ok_or_else(|| expected(path, "a number", value))?;
    let (low, high) = range.into_inner();
    if !(f64::from(low)..=f64::from(high)).contains(&wide) {
        return Err(ApiError::field(path, format_args!("must be between {low} and {high}, got {wide}")));
    }
    Ok(wide as f32)
}

pub(crate) fn integer(value: &Value, path: &str, range: RangeInclusive<i64>) -> Result<i64, ApiError> {
    if !value.is_number() {
        return Err(expected(path, "an integer", value));
    }
    // Some clients write 16.0: a whole number all the same. Beyond 2^53 a float is no exact integer any more.
    let whole = |f: f64| (f.fract() == 0.0 && f.abs() < 9e15).then_some(f as i64);
    let (low, high) = range.into_inner();
    match value.as_i64().or_else(|| value.as_f64().and_then(whole)) {
        Some(n) if (low..=high).contains(&n) => Ok(n),
        Some(n) if high == i64::MAX => Err(ApiError::field(path, format_args!("must be at least {low}, got {n}"))),
        _ if value.as_f64().is_some_and(|f| f.fract() != 0.0) => {
            Err(ApiError::field(path, format_args!("expected an integer, got {value}")))
        }
        _ => Err(ApiError::field(path, format_args!("must be between {low} and {high}, got {value}"))),
    }
}

/// Token ids at `path`.
pub(crate) fn token_ids(values: &[Value], path: &str) -> Result<Vec<u32>, ApiError> {
    let id = |(i, v): (usize, &Value)| match v.as_u64().and_then(|n| u32::try_from(n).ok()) {
        Some(id) => Ok(id),
        None if v.is_number() => Err(ApiError::field(format!("{path}[{i}]"), format_args!("{v} is not a token id"))),
        None => Err(expected(&format!("{path}[{i}]"), "a token id", v)),
    };
    values.iter().enumerate().map(id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_in_objects_of_any_size_and_null_is_none() {
        for size in [0, 1, FIELDS_SEARCHED - 2, FIELDS_SEARCHED, 10 * FIELDS_SEARCHED] {
            let others = (0..size).map(|i| (format!("f{i}"), Value::from(i)));
            let named = [("null".to_owned(), Value::Null), ("model".to_owned(), Value::from("m"))];
            let map: Map<_, _> = others.chain(named).collect();
            let fields = Fields::root(&map);
            assert_eq!(fields.model().as_deref(), Ok("m"), "{size}");
            assert!(fields.get("null").is_none() && fields.get("none").is_none() && fields.get("mode").is_none());
            assert_eq!(fields.get("f0"), (size > 0).then_some(&Value::from(0)));
        }
    }
}
