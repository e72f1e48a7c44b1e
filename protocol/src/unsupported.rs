//! Known features that this version does not have: refused by name, because ignoring them would change the answer.
//!
//! Absent on purpose: fields that change nothing in the answer (`metadata`, `store`, `service_tier`, …); they
//! are ignored like any unknown field. Of `user` only the type is checked.

use crate::{error::ApiError, fields::Fields};
use serde_json::Value;

/// A field and the test whether its value asks for anything.
type Rule = (&'static str, fn(&Value) -> bool);

fn present(_: &Value) -> bool {
    true
}

fn on(v: &Value) -> bool {
    *v != Value::Bool(false)
}

fn not_empty(v: &Value) -> bool {
    !matches!(v, Value::Array(a) if a.is_empty())
        && !matches!(v, Value::String(s) if s.is_empty())
        && !matches!(v, Value::Object(m) if m.is_empty())
}

fn not_zero(v: &Value) -> bool {
    v.as_f64() != Some(0.0)
}

fn not_none(v: &Value) -> bool {
    v != "none"
}

fn not_text_modality(v: &Value) -> bool {
    v.as_array().is_none_or(|list| list.iter().any(|m| m != "text"))
}

const BOTH: &[Rule] = &[
    ("bad_words", not_empty),
    ("logits_processors", not_empty),
    ("min_tokens", not_zero),
    ("prompt_logprobs", present),
    ("stop_token_ids", not_empty),
    ("use_beam_search", on),
];

const CHAT: &[Rule] = &[
    ("audio", present),
    ("chat_template", present),
    ("chat_template_kwargs", not_empty),
    ("continue_final_message", on),
    ("documents", not_empty),
    ("echo", on),
    ("function_call", not_none),
    ("functions", not_empty),
    ("modalities", not_text_modality),
    ("reasoning_effort", not_none),
    ("verbosity", present),
    ("web_search_options", present),
];

const COMPLETION: &[Rule] = &[("prompt_embeds", present), ("suffix", not_empty)];

pub(crate) fn check_chat(fields: &Fields<'_>) -> Result<(), ApiError> {
    check(fields, BOTH)?;
    check(fields, CHAT)
}

pub(crate) fn check_completion(fields: &Fields<'_>) -> Result<(), ApiError> {
    check(fields, BOTH)?;
    check(fields, COMPLETION)
}

fn check(fields: &Fields<'_>, rules: &[Rule]) -> Result<(), ApiError> {
    let asked = |(name, asks): &&Rule| fields.get(name).is_some_and(asks);
    match rules.iter().find(asked) {
        Some((name, _)) => Err(ApiError::unsupported(*name, "this feature")),
        None => Ok(()),
    }
}
