//! Tools of a chat: what the model may call, and whether it must.

use crate::{
    error::ApiError,
    fields::{Fields, expected},
};
use serde_json::{Map, Value, json};

/// Tools of one request.
pub const TOOLS_MAX: usize = 128;
/// Characters of a function's name.
pub const NAME_CHARS_MAX: usize = 64;
/// Bytes of all tools together.
pub const TOOLS_BYTES_MAX: usize = 256 * 1024;

/// What the model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tools {
    /// As the request has them, for the template.
    pub list: Value,
    /// Names and parameter schemas of those that may be called.
    pub functions: Vec<Function>,
    /// It must call one.
    pub required: bool,
    /// It may call several at once.
    pub parallel: bool,
}

/// One function.
#[derive(Clone, Debug, PartialEq)]
pub struct Function {
    /// Letters, digits, `_`, `-` and `.`.
    pub name: String,
    /// A JSON schema of an object.
    pub parameters: Value,
}

impl Tools {
    /// The request's tools; `None` where there are none, or none may be called.
    pub(crate) fn read(fields: &Fields<'_>) -> Result<Option<Self>, ApiError> {
        let list = fields.array("tools")?.unwrap_or_default();
        if list.len() > TOOLS_MAX {
            return Err(ApiError::field("tools", format_args!("has {}; the limit is {TOOLS_MAX}", list.len())));
        }
        let bytes = fields.get("tools").map_or(0, |tools| tools.to_string().len());
        if bytes > TOOLS_BYTES_MAX {
            return Err(ApiError::field("tools", format_args!("has {bytes} bytes; the limit is {TOOLS_BYTES_MAX}")));
        }
        let each = list.iter().enumerate();
        let functions: Vec<Function> =
            each.map(|(i, tool)| function(tool, &format!("tools[{i}]"))).collect::<Result<_, _>>()?;
        let choice = Choice::read(fields, &functions)?;
        let parallel = fields.bool("parallel_tool_calls")?.unwrap_or(true);
        if functions.is_empty() || choice == Choice::None {
            return Ok(None);
        }
        let list = Value::from(list.to_vec());
        Ok(Some(match choice {
            Choice::Named(i) => Self { list, functions: vec![functions[i].clone()], required: true, parallel: false },
            other => Self { list, functions, required: other == Choice::Required, parallel },
        }))
    }
}

#[derive(PartialEq)]
enum Choice {
    None,
    Auto,
    Required,
    /// This function.
    Named(usize),
}

impl Choice {
    fn read(fields: &Fields<'_>, functions: &[Function]) -> Result<Self, ApiError> {
        let needs_tools = |choice| match functions {
            [] => Err(ApiError::field("tool_choice", "is only allowed when tools are given")),
            _ => Ok(choice),
        };
        match fields.get("tool_choice") {
            None => Ok(Self::Auto),
            Some(Value::String(word)) => match word.as_str() {
                "none" => Ok(Self::None),
                "auto" => needs_tools(Self::Auto),
                "required" => needs_tools(Self::Required),
                _ => Err(ApiError::field("tool_choice", "must be 'none', 'auto', 'required' or a function")),
            },
            Some(other) => {
                let choice = Fields::nested(other, "tool_choice")?;
                choice.required("function")?;
                let function = choice.object("function")?.expect("it is there");
                function.required("name")?;
                let name = function.string("name")?.unwrap_or_default();
                let found = functions.iter().position(|function| function.name == name);
                let unknown = || ApiError::field(function.path("name"), format_args!("'{name}' is not among tools"));
                found.map(Self::Named).ok_or_else(unknown)
            }
        }
    }
}

fn function(tool: &Value, path: &str) -> Result<Function, ApiError> {
    let tool = Fields::nested(tool, path)?;
    match tool.string("type")? {
        None | Some("function") => {}
        Some(_) => return Err(ApiError::field(tool.path("type"), "must be 'function'")),
    }
    tool.required("function")?;
    let function = tool.object("function")?.expect("it is there");
    function.required("name")?;
    let name = function.string("name")?.unwrap_or_default();
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(allowed) {
        let rule = format_args!("must be 1 to {NAME_CHARS_MAX} letters, digits, '_', '-' or '.'");
        return Err(ApiError::field(function.path("name"), rule));
    }
    function.string("description")?;
    let parameters = match function.get("parameters") {
        None => json!({"type": "object", "properties": {}, "additionalProperties": false}),
        Some(Value::Object(map)) => Value::Object(map.clone()),
        Some(other) => return Err(expected(&function.path("parameters"), "a JSON schema, which is an object", other)),
    };
    Ok(Function { name: name.to_owned(), parameters })
}

/// The calls an assistant made before, as templates expect them: arguments are objects.
pub(crate) fn past_calls(calls: &[Value], path: &str) -> Result<Value, ApiError> {
    let call = |(i, call): (usize, &Value)| {
        let call = Fields::nested(call, &format!("{path}[{i}]"))?;
        call.required("function")?;
        let function = call.object("function")?.expect("it is there");
        function.required("name")?;
        let name = function.string("name")?.unwrap_or_default();
        let at = function.path("arguments");
        let arguments = match function.get("arguments") {
            None => json!({}),
            Some(Value::String(text)) if text.is_empty() => json!({}),
            Some(Value::String(text)) => {
                serde_json::from_str(text).map_err(|e| ApiError::field(&at, format_args!("is no JSON: {e}")))?
            }
            Some(other) => other.clone(),
        };
        if !arguments.is_object() {
            return Err(expected(&at, "a JSON object", &arguments));
        }
        let id = call.string("id")?.unwrap_or_default();
        let function = json!({"name": name, "arguments": arguments});
        Ok(Value::Object(Map::from_iter([
            ("id".to_owned(), id.into()),
            ("type".to_owned(), "function".into()),
            ("function".to_owned(), function),
        ])))
    };
    calls.iter().enumerate().map(call).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(body: Value) -> Result<Option<Tools>, ApiError> {
        Tools::read(&Fields::root(body.as_object().unwrap()))
    }

    fn tool(name: &str) -> Value {
        json!({"type": "function", "function": {"name": name, "parameters": {"type": "object"}}})
    }

    #[test]
    fn tools_and_choices_are_read() {
        let both = json!([tool("a"), tool("b")]);
        let tools = |choice: Value| read(json!({"tools": both, "tool_choice": choice})).unwrap();
        let auto = tools(Value::Null).unwrap();
        assert!(!auto.required && auto.parallel && auto.functions.len() == 2);
        assert!(tools(json!("required")).unwrap().required);
        assert_eq!(tools(json!("none")), None);
        let named = tools(json!({"type": "function", "function": {"name": "b"}})).unwrap();
        assert!(named.required && !named.parallel && named.functions[0].name == "b");
        assert_eq!(named.list, both);
        assert_eq!(read(json!({"tools": []})).unwrap(), None);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, param) in [
            (json!({"tools": {}}), "tools"),
            (json!({"tools": [tool("a"), 7]}), "tools[1]"),
            (json!({"tools": [{"type": "retrieval"}]}), "tools[0].type"),
            (json!({"tools": [tool("a b")]}), "tools[0].function.name"),
            (json!({"tools": [{"function": {"name": "a", "parameters": 7}}]}), "tools[0].function.parameters"),
            (json!({"tool_choice": "auto"}), "tool_choice"),
            (json!({"tools": [tool("a")], "tool_choice": "always"}), "tool_choice"),
            (json!({"tools": [tool("a")], "tool_choice": {"function": {"name": "b"}}}), "tool_choice.function.name"),
            (json!({"tools": vec![tool("a"); 129]}), "tools"),
        ] {
            assert_eq!(read(body.clone()).unwrap_err().param.as_deref(), Some(param), "{body}");
        }
    }

    #[test]
    fn past_calls_have_objects_for_arguments() {
        let calls = [json!({"id": "x", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}})];
        assert_eq!(past_calls(&calls, "p").unwrap()[0]["function"]["arguments"], json!({"a": 1}));
        let broken = [json!({"function": {"name": "f", "arguments": "{"}})];
        assert_eq!(past_calls(&broken, "p").unwrap_err().param.as_deref(), Some("p[0].function.arguments"));
    }
}
