//! Messages of an OpenAI request → messages as templates expect them.

use crate::Error;
use serde_json::Value as Json;

/// Content in parts becomes one text, and a call's arguments, which the API writes as a string, the object they are.
pub(super) fn prepared(messages: &Json) -> Result<Vec<Json>, Error> {
    let Some(messages) = messages.as_array() else {
        return Err(Error::BadModel("messages: not a list".into()));
    };
    messages.iter().enumerate().map(|(index, message)| prepare(index, message)).collect()
}

fn prepare(index: usize, message: &Json) -> Result<Json, Error> {
    let objects = |calls: &Json| calls.as_array().is_none_or(|calls| calls.iter().all(Json::is_object));
    if !message.is_object() || !message.get("tool_calls").is_none_or(objects) {
        return Err(Error::BadModel(format!("messages[{index}]: not an object, or calls that are none")));
    }
    let mut message = message.clone();
    if let Some(parts) = message.get("content").and_then(Json::as_array) {
        message["content"] = Json::String(joined(index, parts)?);
    }
    let calls = message.get_mut("tool_calls").and_then(Json::as_array_mut);
    for call in calls.into_iter().flatten() {
        let Some(arguments) = call.pointer_mut("/function/arguments") else { continue };
        if let Some(object) = arguments.as_str().and_then(|text| serde_json::from_str::<Json>(text).ok()) {
            *arguments = object;
        }
    }
    Ok(message)
}

/// The texts, one to a line.
fn joined(index: usize, parts: &[Json]) -> Result<String, Error> {
    let texts = parts.iter().enumerate().map(|(part, json)| {
        let kind = json.get("type").and_then(Json::as_str).unwrap_or("text");
        match (kind, json.get("text").and_then(Json::as_str).or(json.as_str())) {
            ("text", Some(text)) => Ok(text),
            (kind, _) => {
                Err(Error::Unsupported(format!("messages[{index}].content[{part}]: `{kind}`; this model reads text")))
            }
        }
    });
    Ok(texts.collect::<Result<Vec<_>, _>>()?.join("\n"))
}
