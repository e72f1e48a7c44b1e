//! What a template does with tools, calls and results: asked and not guessed. It renders small conversations, and what comes out of
//! it says.

use super::ChatTemplate;
use serde_json::{Value as Json, json};
use std::time::UNIX_EPOCH;

/// Where a template takes tools from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The variable `tools`.
    Variable,
    /// The field `tools` of the system message, as text (Phi-4-mini).
    SystemField,
    /// Nowhere: they are written into a message.
    Text,
}

/// What a template does with calls in the conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Calls {
    /// Renders them, however many a message has.
    Several,
    /// Renders one in a message (Llama 3).
    One,
    /// Loses them: they are written into the message.
    Lost,
}

/// What a template can do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ways {
    pub place: Place,
    /// There is a system role.
    pub system: bool,
    pub calls: Calls,
    /// There is a role for results.
    pub results: bool,
    /// Ids of calls must have nine letters and digits (Mistral).
    pub short_ids: bool,
}

/// Words that no template has of itself.
const TOOL: &str = "probe_tool";
const ASKED: &str = "probe_argument";
const FOUND: &str = "probe_result";
const SYSTEM: &str = "probe_system";
/// Ids as Mistral and as OpenAI make them.
const SHORT: [&str; 2] = ["probe0001", "probe0002"];
const LONG: [&str; 1] = ["call_0123456789abcdef"];

impl Ways {
    pub fn of(template: &ChatTemplate) -> Self {
        let user = || json!({"role": "user", "content": "u"});
        let parameters = json!({"type": "object", "properties": {}});
        let function = json!({"name": TOOL, "description": "d", "parameters": parameters});
        let tools = json!([{"type": "function", "function": function}]);
        let shows = |messages: Json, tools: Option<&Json>, words: &[String]| {
            let text = template.render_prepared(&messages, tools, true, UNIX_EPOCH);
            text.is_ok_and(|text| words.iter().all(|word| text.contains(word)))
        };
        // Nothing can be asked of a template that wants more than this; what it mentions, it may have.
        let mentions = || template.choose(true).is_ok_and(|template| template.source().contains("tools"));
        if !shows(json!([user()]), None, &[]) && mentions() {
            let (place, calls) = (Place::Variable, Calls::Several);
            return Self { place, system: true, calls, results: true, short_ids: false };
        }
        let field = json!({"role": "system", "content": "s", "tools": TOOL});
        let place = match () {
            () if shows(json!([user()]), Some(&tools), &[TOOL.into()]) => Place::Variable,
            () if shows(json!([field, user()]), None, &[TOOL.into()]) => Place::SystemField,
            () => Place::Text,
        };
        let given = Some(&tools).filter(|_| place == Place::Variable);
        let called = |ids: &[&str], words: &[String]| place != Place::Text && shows(conversation(ids), given, words);
        let calls = match () {
            () if called(&SHORT, &words(&SHORT)) => Calls::Several,
            () if called(&SHORT[..1], &words(&SHORT[..1])) => Calls::One,
            () => Calls::Lost,
        };
        let system = json!({"role": "system", "content": SYSTEM});
        Self {
            place,
            system: shows(json!([system, user()]), None, &[SYSTEM.into()]),
            calls,
            results: called(&SHORT[..1], &[FOUND.into()]),
            short_ids: calls != Calls::Lost && !called(&LONG, &words(&LONG)),
        }
    }
}

/// A question, calls with these ids, and their results.
fn conversation(ids: &[&str]) -> Json {
    let call = |(i, id): (usize, &&str)| {
        let function = json!({"name": format!("{TOOL}{i}"), "arguments": {"a": format!("{ASKED}{i}")}});
        json!({"id": id, "type": "function", "function": function})
    };
    let calls: Vec<Json> = ids.iter().enumerate().map(call).collect();
    let mut messages =
        vec![json!({"role": "user", "content": "u"}), json!({"role": "assistant", "content": "", "tool_calls": calls})];
    messages.extend(ids.iter().map(|id| json!({"role": "tool", "tool_call_id": id, "content": FOUND})));
    messages.into()
}

/// What a template that renders them has in its text.
fn words(ids: &[&str]) -> Vec<String> {
    (0..ids.len()).flat_map(|i| [format!("{TOOL}{i}"), format!("{ASKED}{i}")]).collect()
}
