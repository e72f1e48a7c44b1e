//! `POST /v1/completions`: the request.

use crate::{
    error::ApiError,
    fields::{Fields, describe, expected, object, token_ids},
    generate::{CHOICES_MAX, Generate, TOP_LOGPROBS_MAX},
    unsupported,
};
use serde_json::Value;

/// Tokens to generate where the request names no number (OpenAI's default).
pub const MAX_TOKENS_DEFAULT: u32 = 16;

/// One prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// Text, tokenised with the special tokens that the tokenizer adds.
    Text(String),
    /// Token ids, used as they are.
    Tokens(Vec<u32>),
}

/// Prompts to be continued.
#[derive(Clone, Debug, PartialEq)]
pub struct CompletionRequest {
    /// At least one; choices are numbered prompt by prompt.
    pub prompts: Vec<Prompt>,
    /// What to generate for each.
    pub generate: Generate,
}

/// Reads and checks a whole request.
pub fn parse_completion(body: &[u8]) -> Result<CompletionRequest, ApiError> {
    let map = object(body)?;
    let fields = Fields::root(&map);
    let mut generate = Generate::read(&fields)?;
    generate.max_tokens = Some(generate.max_tokens.unwrap_or(MAX_TOKENS_DEFAULT));
    generate.logprobs = logprobs(&fields)?;
    unsupported::check_completion(&fields)?;
    check_best_of(&fields, generate.n)?;
    let prompts = prompts(fields.required("prompt")?, "prompt", CHOICES_MAX)?;
    let choices = prompts.len().saturating_mul(generate.n as usize);
    if choices > CHOICES_MAX {
        let problem = format_args!(
            "{} prompts times n = {} are {choices} choices; the limit is {CHOICES_MAX}",
            prompts.len(),
            generate.n
        );
        return Err(ApiError::field("prompt", problem));
    }
    Ok(CompletionRequest { prompts, generate })
}

/// A number of alternatives; `false` and `true` are what some clients send in the chat endpoint's style.
fn logprobs(fields: &Fields<'_>) -> Result<Option<u32>, ApiError> {
    match fields.get("logprobs") {
        Some(Value::Bool(false)) => Ok(None),
        Some(Value::Bool(true)) => Ok(Some(0)),
        _ => Ok(fields.integer("logprobs", 0..=i64::from(TOP_LOGPROBS_MAX))?.map(|k| k as u32)),
    }
}

/// `best_of` beyond `n` would choose among more candidates.
fn check_best_of(fields: &Fields<'_>, n: u32) -> Result<(), ApiError> {
    match fields.integer("best_of", 1..=i64::MAX)? {
        Some(best_of) if best_of != i64::from(n) => Err(ApiError::unsupported("best_of", "a value other than n")),
        _ => Ok(()),
    }
}

/// One prompt or several, at most `most`; `path` is the field they stand in.
pub(crate) fn prompts(value: &Value, path: &str, most: usize) -> Result<Vec<Prompt>, ApiError> {
    let list = match value {
        Value::String(text) => return Ok(vec![Prompt::Text(text.clone())]),
        Value::Array(list) => list,
        other => return Err(expected(path, "a string or an array", other)),
    };
    match list.first() {
        None => Err(ApiError::field(path, "must not be empty")),
        Some(Value::Number(_)) => Ok(vec![tokens(list, path)?]),
        Some(_) if list.len() > most => {
            Err(ApiError::field(path, format_args!("has {} texts; the limit is {most}", list.len())))
        }
        Some(_) => list.iter().enumerate().map(|(i, v)| prompt(v, &format!("{path}[{i}]"))).collect(),
    }
}

fn prompt(value: &Value, path: &str) -> Result<Prompt, ApiError> {
    match value {
        Value::String(text) => Ok(Prompt::Text(text.clone())),
        Value::Array(list) => tokens(list, path),
        other => Err(ApiError::field(path, format_args!("expected a string or token ids, got {}", describe(other)))),
    }
}

fn tokens(list: &[Value], path: &str) -> Result<Prompt, ApiError> {
    match list {
        [] => Err(ApiError::field(path, "must not be empty")),
        list => Ok(Prompt::Tokens(token_ids(list, path)?)),
    }
}
