//! `POST /v1/chat/completions`: the request.

use crate::{
    error::ApiError,
    fields::{Fields, expected, object},
    generate::{Generate, TOP_LOGPROBS_MAX},
    tools::{Tools, past_calls},
    unsupported,
};
use serde_json::{Map, Value};

/// Messages of one request.
pub const MESSAGES_MAX: usize = 4096;

/// A chat to be continued.
#[derive(Clone, Debug, PartialEq)]
pub struct ChatRequest {
    /// A JSON array of objects as templates expect them: `role` and `content` are strings (lists of text parts are
    /// joined by line breaks; `developer` is spelt `system`), other fields are passed on.
    pub messages: Value,
    /// The rendered prompt ends with the header of the assistant's answer.
    pub add_generation_prompt: bool,
    /// What the model may call, if anything.
    pub tools: Option<Tools>,
    /// What to generate.
    pub generate: Generate,
}

/// Reads and checks a whole request.
pub fn parse_chat(body: &[u8]) -> Result<ChatRequest, ApiError> {
    let map = object(body)?;
    let fields = Fields::root(&map);
    let mut generate = Generate::read(&fields)?;
    generate.logprobs = logprobs(&fields)?;
    unsupported::check_chat(&fields)?;
    let tools = Tools::read(&fields)?;
    if let (Some(constraint), Some(true)) = (&generate.constraint, tools.as_ref().map(|tools| tools.required)) {
        return Err(ApiError::field(&constraint.field, "cannot be combined with a tool_choice that requires a call"));
    }
    Ok(ChatRequest {
        messages: messages(&fields)?,
        add_generation_prompt: fields.bool("add_generation_prompt")?.unwrap_or(true),
        tools,
        generate,
    })
}

fn logprobs(fields: &Fields<'_>) -> Result<Option<u32>, ApiError> {
    let wanted = fields.bool("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0..=i64::from(TOP_LOGPROBS_MAX))?;
    match (wanted, top) {
        (false, Some(1..)) => Err(ApiError::field("top_logprobs", "needs logprobs to be true")),
        (false, _) => Ok(None),
        (true, top) => Ok(Some(top.unwrap_or(0) as u32)),
    }
}

/// `messages`, checked and brought into the shape that templates expect.
pub(crate) fn messages(fields: &Fields<'_>) -> Result<Value, ApiError> {
    fields.required("messages")?;
    let list = fields.array("messages")?.unwrap_or_default();
    if list.is_empty() || list.len() > MESSAGES_MAX {
        return Err(ApiError::field(
            "messages",
            format_args!("must have 1 to {MESSAGES_MAX} messages, got {}", list.len()),
        ));
    }
    list.iter().enumerate().map(|(i, m)| message(m, &format!("messages[{i}]"))).collect()
}

fn message(value: &Value, path: &str) -> Result<Value, ApiError> {
    let fields = Fields::nested(value, path)?;
    fields.required("role")?;
    let role = match fields.string("role")?.unwrap_or_default() {
        "" => return Err(ApiError::field(fields.path("role"), "must not be empty")),
        "function" => return Err(ApiError::unsupported(fields.path("role"), "the role 'function' (use 'tool')")),
        "developer" => "system",
        other => other,
    };
    for name in ["function_call", "audio"] {
        if fields.get(name).is_some_and(|v| v.as_array().is_none_or(|list| !list.is_empty())) {
            return Err(ApiError::unsupported(fields.path(name), "this feature"));
        }
    }
    let calls = fields.array("tool_calls")?.unwrap_or_default();
    // Who only calls says nothing.
    let content = if fields.get("content").is_none() && !calls.is_empty() { String::new() } else { content(&fields)? };
    let mut message =
        Map::from_iter([("role".to_owned(), Value::from(role)), ("content".to_owned(), Value::from(content))]);
    if !calls.is_empty() {
        message.insert("tool_calls".to_owned(), past_calls(calls, &fields.path("tool_calls"))?);
    }
    let ours = |key: &str| matches!(key, "role" | "content" | "tool_calls");
    let others = fields.entries().filter(|(key, value)| !ours(key) && !value.is_null());
    message.extend(others.map(|(key, value)| (key.clone(), value.clone())));
    Ok(Value::Object(message))
}

fn content(fields: &Fields<'_>) -> Result<String, ApiError> {
    let path = fields.path("content");
    match fields.required("content")? {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => {
            let texts: Vec<&str> = parts
                .iter()
                .enumerate()
                .map(|(i, p)| text_part(p, &format!("{path}[{i}]")))
                .collect::<Result<_, _>>()?;
            Ok(texts.join("\n"))
        }
        other => Err(expected(&path, "a string or an array of parts", other)),
    }
}

fn text_part<'a>(value: &'a Value, path: &str) -> Result<&'a str, ApiError> {
    let part = Fields::nested(value, path)?;
    part.required("type")?;
    match part.string("type")?.unwrap_or_default() {
        "text" => {
            part.required("text")?;
            Ok(part.string("text")?.unwrap_or_default())
        }
        kind @ ("image_url" | "input_audio" | "file" | "video_url" | "refusal") => {
            Err(ApiError::unsupported(part.path("type"), format_args!("content of type '{kind}'")))
        }
        _ => Err(ApiError::field(part.path("type"), "unknown type of content; only 'text' is supported")),
    }
}
