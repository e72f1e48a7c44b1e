//! The form an answer must have: OpenAI's `response_format`, and the extensions of other servers. One at a time.

use crate::{
    error::ApiError,
    fields::{Fields, expected},
};
use serde_json::{Value, json};

/// Bytes of a schema, a grammar, or a pattern.
pub const CONSTRAINT_BYTES_MAX: usize = 256 * 1024;
/// Answers to choose from.
pub const CHOICES_MAX: usize = 1024;

/// The form, and the field that asked for it.
#[derive(Clone, Debug, PartialEq)]
pub struct Constraint {
    /// For errors.
    pub field: String,
    /// The form.
    pub form: Form,
}

/// What the whole answer must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Form {
    /// JSON that this schema allows.
    JsonSchema(Value),
    /// Matched by this regular expression as a whole.
    Regex(String),
    /// A word of this grammar, in Lark's notation.
    Lark(String),
}

impl Constraint {
    /// What the request asks for, if anything.
    pub(crate) fn read(fields: &Fields<'_>) -> Result<Option<Self>, ApiError> {
        let mut found = Vec::new();
        found.extend(response_format(fields)?);
        for (name, read) in EXTENSIONS {
            if let Some(value) = fields.get(name) {
                found.push(Self { form: read(value, &fields.path(name))?, field: fields.path(name) });
            }
        }
        if let Some(nested) = fields.object("structured_outputs")? {
            for (name, read) in [("json", json_form as Read), ("regex", regex), ("choice", choice), ("grammar", lark)] {
                if let Some(value) = nested.get(name) {
                    found.push(Self { form: read(value, &nested.path(name))?, field: nested.path(name) });
                }
            }
        }
        match &found[..] {
            [] | [_] => Ok(found.pop()),
            [first, second, ..] => {
                Err(ApiError::field(&second.field, format_args!("cannot be combined with {}", first.field)))
            }
        }
    }
}

type Read = fn(&Value, &str) -> Result<Form, ApiError>;

const EXTENSIONS: [(&str, Read); 6] = [
    ("json_schema", json_form),
    ("guided_json", json_form),
    ("guided_regex", regex),
    ("guided_choice", choice),
    ("guided_grammar", lark),
    ("grammar", lark),
];

fn response_format(fields: &Fields<'_>) -> Result<Option<Constraint>, ApiError> {
    let Some(format) = fields.object("response_format")? else { return Ok(None) };
    format.required("type")?;
    let (field, schema) = match format.string("type")?.unwrap_or_default() {
        "text" => return Ok(None),
        "json_object" => (fields.path("response_format"), json!({"type": "object"})),
        "json_schema" => {
            format.required("json_schema")?;
            let inner = format.object("json_schema")?.expect("it is there");
            (inner.path("schema"), inner.required("schema")?.clone())
        }
        _ => return Err(ApiError::field(format.path("type"), "must be 'text', 'json_object' or 'json_schema'")),
    };
    Ok(Some(Constraint { form: json_form(&schema, &field)?, field }))
}

/// A schema, or one written down as a string.
fn json_form(value: &Value, path: &str) -> Result<Form, ApiError> {
    let parsed = match value {
        Value::String(text) => &serde_json::from_str(bounded(text, path)?)
            .map_err(|e| ApiError::field(path, format_args!("is no JSON: {e}")))?,
        other => other,
    };
    if !parsed.is_object() {
        return Err(expected(path, "a JSON schema, which is an object", parsed));
    }
    bounded(&parsed.to_string(), path)?;
    Ok(Form::JsonSchema(parsed.clone()))
}

fn text<'a>(value: &'a Value, path: &str) -> Result<&'a str, ApiError> {
    match value.as_str() {
        Some("") => Err(ApiError::field(path, "must not be empty")),
        Some(text) => bounded(text, path),
        None => Err(expected(path, "a string", value)),
    }
}

fn regex(value: &Value, path: &str) -> Result<Form, ApiError> {
    Ok(Form::Regex(text(value, path)?.to_owned()))
}

fn lark(value: &Value, path: &str) -> Result<Form, ApiError> {
    Ok(Form::Lark(text(value, path)?.to_owned()))
}

fn choice(value: &Value, path: &str) -> Result<Form, ApiError> {
    let list = value.as_array().ok_or_else(|| expected(path, "an array of strings", value))?;
    if list.is_empty() || list.len() > CHOICES_MAX {
        return Err(ApiError::field(path, format_args!("must have 1 to {CHOICES_MAX} strings, got {}", list.len())));
    }
    let texts: Vec<&str> =
        list.iter().enumerate().map(|(i, v)| text(v, &format!("{path}[{i}]"))).collect::<Result<_, _>>()?;
    bounded(&texts.concat(), path)?;
    // Lark's strings are escaped as JSON's are.
    let quoted: Vec<String> = texts.iter().map(|text| Value::from(*text).to_string()).collect();
    Ok(Form::Lark(format!("start: {}", quoted.join(" | "))))
}

fn bounded<'a>(text: &'a str, path: &str) -> Result<&'a str, ApiError> {
    match text.len() {
        n if n > CONSTRAINT_BYTES_MAX => {
            Err(ApiError::field(path, format_args!("has {n} bytes; the limit is {CONSTRAINT_BYTES_MAX}")))
        }
        _ => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(body: Value) -> Result<Option<Constraint>, ApiError> {
        Constraint::read(&Fields::root(body.as_object().unwrap()))
    }

    #[test]
    fn every_way_of_asking_is_read() {
        let schema = json!({"type": "object"});
        let form = |body| read(body).unwrap().map(|constraint| constraint.form);
        let openai =
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}});
        for body in [
            openai,
            json!({"response_format": {"type": "json_object"}}),
            json!({"guided_json": schema}),
            json!({"guided_json": schema.to_string()}),
            json!({"structured_outputs": {"json": schema}}),
        ] {
            assert_eq!(form(body), Some(Form::JsonSchema(schema.clone())));
        }
        assert_eq!(form(json!({"guided_regex": "a+"})), Some(Form::Regex("a+".into())));
        assert_eq!(form(json!({"grammar": "start: \"a\""})), Some(Form::Lark("start: \"a\"".into())));
        let choice = json!({"structured_outputs": {"choice": ["yes", "n\"o"]}});
        assert_eq!(form(choice), Some(Form::Lark(r#"start: "yes" | "n\"o""#.into())));
        assert_eq!(form(json!({"response_format": {"type": "text"}, "guided_json": null})), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = "a".repeat(CONSTRAINT_BYTES_MAX + 1);
        for (body, param) in [
            (json!({"response_format": "json"}), "response_format"),
            (json!({"response_format": {"type": "xml"}}), "response_format.type"),
            (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
            (
                json!({"response_format": {"type": "json_schema", "json_schema": {}}}),
                "response_format.json_schema.schema",
            ),
            (json!({"guided_json": "{"}), "guided_json"),
            (json!({"guided_json": 7}), "guided_json"),
            (json!({"guided_choice": []}), "guided_choice"),
            (json!({"guided_choice": ["a", 1]}), "guided_choice[1]"),
            (json!({"guided_regex": long}), "guided_regex"),
            (json!({"guided_regex": "a", "grammar": "b"}), "grammar"),
        ] {
            assert_eq!(read(body.clone()).unwrap_err().param.as_deref(), Some(param), "{body}");
        }
    }
}
