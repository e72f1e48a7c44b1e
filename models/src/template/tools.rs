//! Tools, their calls and results, for templates that have no place for them, or not the usual one.
//!
//! Tools go to the variable `tools`, else into the field `tools` of the system message, else, with a word on how to call them, into
//! the text of the system message, or of the first user message where there is no system role. There a call is
//! `{"name": …, "parameters": {…}}`, and so are past ones; results are messages of the user, because roles that a template does not
//! know are refused or lost. **Invariant:** a conversation without tools, calls and results is left alone.

use super::{
    json::python_json,
    ways::{Calls, Place, Ways},
};
use serde_json::{Map, Value as Json, json};
use std::hash::{DefaultHasher, Hash, Hasher};

/// As long as ids of calls may be everywhere.
const ID_CHARS: usize = 9;

impl Ways {
    /// The conversation as this template takes it. What is left of `tools` is for the variable.
    pub fn adapt<'a>(&self, mut messages: Vec<Json>, tools: Option<&'a Json>) -> (Vec<Json>, Option<&'a Json>) {
        if self.short_ids {
            messages.iter_mut().for_each(shorten_ids);
        }
        if self.calls == Calls::One {
            messages = one_by_one(messages);
        }
        if self.calls == Calls::Lost || !self.results {
            messages = self.written(messages);
        }
        match (self.place, tools) {
            (Place::Variable, tools) => (messages, tools),
            (Place::SystemField | Place::Text, None) => (messages, None),
            (Place::SystemField, Some(tools)) => (with_field(messages, tools), None),
            (Place::Text, Some(tools)) => (self.with_text(messages, &instructions(tools)), None),
        }
    }

    /// Calls and results as text. Roles may have to alternate: what stands side by side then is one message.
    fn written(&self, messages: Vec<Json>) -> Vec<Json> {
        let mut out: Vec<Json> = Vec::with_capacity(messages.len());
        let mut was_written = false;
        let mut names: Map<String, Json> = Map::new();
        for mut message in messages {
            for call in message.get("tool_calls").and_then(Json::as_array).into_iter().flatten() {
                let id = call.get("id").and_then(Json::as_str).unwrap_or_default();
                names.insert(id.to_owned(), call["function"]["name"].clone());
            }
            let writes = self.calls == Calls::Lost && write_calls(&mut message, self.place)
                || !self.results && write_result(&mut message, &names);
            match out.last_mut().filter(|last| (writes || was_written) && last["role"] == message["role"]) {
                Some(last) => last["content"] = joined(last, "\n", &message).into(),
                None => out.push(message),
            }
            was_written = writes;
        }
        out
    }

    fn with_text(&self, mut messages: Vec<Json>, text: &str) -> Vec<Json> {
        let role = if self.system { "system" } else { "user" };
        let words = json!({"role": role, "content": text});
        match messages.iter().position(|message| message["role"] == role) {
            Some(0) if self.system => messages[0]["content"] = joined(&messages[0], "\n\n", &words).into(),
            Some(first) if !self.system => messages[first]["content"] = joined(&words, "\n\n", &messages[first]).into(),
            Some(_) | None => messages.insert(0, words),
        }
        messages
    }
}

/// There are tools, calls of them or results in it.
pub(super) fn concerns(messages: &[Json], tools: Option<&Json>) -> bool {
    tools.is_some() || messages.iter().any(|message| message.get("tool_calls").is_some() || message["role"] == "tool")
}

fn text(message: &Json) -> &str {
    message.get("content").and_then(Json::as_str).unwrap_or_default()
}

fn joined(one: &Json, between: &str, other: &Json) -> String {
    let (one, other) = (text(one), text(other));
    if one.is_empty() || other.is_empty() { format!("{one}{other}") } else { format!("{one}{between}{other}") }
}

/// Each function as JSON, without what is the same in all.
fn functions(tools: &Json) -> Vec<Json> {
    let each = tools.as_array().into_iter().flatten();
    each.map(|tool| tool.get("function").unwrap_or(tool).clone()).collect()
}

fn instructions(tools: &Json) -> String {
    let functions: Vec<String> = functions(tools).iter().map(python_json).collect();
    format!(
        "You can call functions. To call one, answer with nothing but a JSON object: {{\"name\": its name, \"parameters\": an object \
         of its arguments}}; several calls, one to a line. The next message has the results. Where no call helps, answer as \
         usual. The functions:\n{}",
        functions.join("\n")
    )
}

fn with_field(mut messages: Vec<Json>, tools: &Json) -> Vec<Json> {
    if messages.first().is_none_or(|first| first["role"] != "system") {
        messages.insert(0, json!({"role": "system", "content": ""}));
    }
    messages[0]["tools"] = python_json(&functions(tools).into()).into();
    messages
}

/// Calls become text behind what was said; whether there were any.
fn write_calls(message: &mut Json, place: Place) -> bool {
    let Some(calls) = message.as_object_mut().and_then(|fields| fields.remove("tool_calls")) else { return false };
    let key = if place == Place::Text { "parameters" } else { "arguments" };
    let each = calls.as_array().into_iter().flatten().map(|call| &call["function"]);
    let calls: Vec<String> =
        each.map(|call| python_json(&json!({"name": call["name"], key: call["arguments"]}))).collect();
    let calls = match place {
        Place::SystemField => format!("<|tool_call|>[{}]<|/tool_call|>", calls.join(", ")),
        Place::Variable | Place::Text => calls.join("\n"),
    };
    message["content"] = joined(message, "\n", &json!({"content": calls})).into();
    true
}

/// A result becomes what the user says; whether it was one.
fn write_result(message: &mut Json, names: &Map<String, Json>) -> bool {
    if message["role"] != "tool" {
        return false;
    }
    let id = message.get("tool_call_id").and_then(Json::as_str).unwrap_or_default();
    let of = names.get(id).and_then(Json::as_str).map_or(String::new(), |name| format!(" of {name}"));
    *message = json!({"role": "user", "content": format!("Result{of}: {}", text(message))});
    true
}

/// A message for each call, with its result behind it.
fn one_by_one(messages: Vec<Json>) -> Vec<Json> {
    let mut out = Vec::with_capacity(messages.len());
    let mut rest = messages.into_iter().peekable();
    while let Some(mut message) = rest.next() {
        let calls = message.get_mut("tool_calls").and_then(Json::as_array_mut).map(std::mem::take).unwrap_or_default();
        let mut results = Vec::new();
        while let Some(result) = rest.next_if(|next| !calls.is_empty() && next["role"] == "tool") {
            results.push(result);
        }
        if calls.is_empty() {
            out.push(message);
            continue;
        }
        for call in calls {
            let mut one = message.clone();
            message["content"] = "".into();
            let its = results.iter().position(|result| result["tool_call_id"] == call["id"]);
            one["tool_calls"] = json!([call]);
            out.push(one);
            out.extend(its.map(|its| results.remove(its)));
        }
        out.append(&mut results);
    }
    out
}

fn shorten_ids(message: &mut Json) {
    let calls = message.get_mut("tool_calls").and_then(Json::as_array_mut);
    calls.into_iter().flatten().for_each(|call| call["id"] = short_id(&call["id"]).into());
    if message["role"] == "tool" {
        message["tool_call_id"] = short_id(&message["tool_call_id"]).into();
    }
}

/// The id itself where it fits, else one that is the same whenever this id comes again.
fn short_id(id: &Json) -> String {
    let id = id.as_str().unwrap_or_default();
    if id.len() == ID_CHARS && id.chars().all(|c| c.is_ascii_alphanumeric()) {
        return id.to_owned();
    }
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    let hash = hasher.finish();
    (0..ID_CHARS as u32).filter_map(|i| char::from_digit((hash / 36u64.pow(i) % 36) as u32, 36)).collect()
}
