//! Requests and answers as guests see them, and what guests make of them.
//!
//! **Contract:** what a guest leaves as it was stays what the client sent, word for word; what it cannot say (tools, penalties, tokens) it cannot
//! change. Where a guest may edit, nothing else tells a client what the model said: no log probabilities, no prompt given back.

mod kept;
pub mod loader;
pub mod swap;
pub mod token;

use crate::service::Service;
use guests::{Chain, Finish, Grammar, Message, Prompt, Refused, Request, Response, Sampling, Verdict};
pub use guests::{Scope, Session, Usage};
use protocol::{ApiError, ErrorKind, Form, Generate, answer::FinishReason};
use serde_json::{Map, Value, json};
use std::sync::{Arc, Mutex, PoisonError};

/// One choice's guests, for who decodes it and who answers with it.
#[derive(Clone, Debug)]
pub struct Shared(Arc<Mutex<Session>>);

impl Shared {
    pub fn new(session: Session) -> Self {
        Self(Arc::new(Mutex::new(session)))
    }

    /// Their turn; blocks for a guest's budget at most.
    pub fn with<T>(&self, act: impl FnOnce(&mut Session) -> Result<T, Refused>) -> Result<T, ApiError> {
        // Nobody else has it at the same time, and a guest's panic is a trap.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)).map_err(refusal)
    }
}

/// A client's error for what guests refuse.
fn refusal(refused: Refused) -> ApiError {
    let Refused { status, code, message } = refused;
    ApiError { code: Some(code), ..ApiError::new(ErrorKind::Guest(status), message) }
}

/// What cannot be asked for where guests edit. `calls`: tools may be called.
///
/// # Errors
/// 400 with the field.
pub fn check(chain: &Chain, generate: &Generate, calls: bool) -> Result<(), ApiError> {
    let hooks = chain.hooks();
    let edits = hooks.text || hooks.response;
    if edits && generate.logprobs.is_some() {
        return Err(ApiError::field("logprobs", "cannot be had of this model, whose guests edit its answers"));
    }
    if (edits || hooks.request) && generate.echo {
        return Err(ApiError::field("echo", "cannot be had of this model, whose guests edit prompts or answers"));
    }
    if hooks.response && calls {
        return Err(ApiError::field(
            "tools",
            "cannot be had of this model: a guest of it edits whole answers, and sees no calls",
        ));
    }
    if hooks.response && generate.stream {
        let message = "must be false: a guest of this model edits whole answers";
        return Err(ApiError::field("stream", message));
    }
    Ok(())
}

/// What becomes of a request.
pub enum Outcome {
    /// It is to be generated.
    Go,
    /// This is its answer.
    Answer(String),
}

/// Shows a chat to guests: its messages and what to generate may change. Without `metadata` none of them wants to see it.
///
/// # Errors
/// A guest refuses it, or asks for what nobody could.
pub fn chat(
    session: &mut Session,
    messages: &mut Value,
    generate: &mut Generate,
    metadata: Option<Vec<(String, String)>>,
) -> Result<Outcome, ApiError> {
    let Some(metadata) = metadata else { return Ok(Outcome::Go) };
    let prompt = Prompt::Chat(messages.as_array().into_iter().flatten().map(message).collect());
    let asked = request(prompt, generate, metadata);
    let replaced = match session.request(&asked).map_err(refusal)? {
        Verdict::Pass => return Ok(Outcome::Go),
        Verdict::Answer(text) => return Ok(Outcome::Answer(text)),
        Verdict::Replace(replaced) => replaced,
    };
    bounded(&asked.prompt, &replaced.prompt)?;
    match (&asked.prompt, replaced.prompt) {
        (Prompt::Chat(before), Prompt::Chat(after)) => *messages = merge(messages, before, after),
        (_, Prompt::Text(_)) => return Err(wrong("made a raw text of a chat")),
        (Prompt::Text(_), Prompt::Chat(_)) => return Err(wrong("made a chat of a raw text")),
    }
    apply(&asked.sampling, replaced.sampling, generate)?;
    Ok(Outcome::Go)
}

/// Shows a completion's prompt to guests; the text that it is now, where it has changed.
///
/// # Errors
/// As [`chat`].
pub fn completion(
    session: &mut Session,
    service: &Service,
    prompt: &mut protocol::Prompt,
    generate: &mut Generate,
    metadata: Option<Vec<(String, String)>>,
) -> Result<Outcome, ApiError> {
    let Some(metadata) = metadata else { return Ok(Outcome::Go) };
    let text = match prompt {
        protocol::Prompt::Text(text) => text.clone(),
        protocol::Prompt::Tokens(ids) => {
            service.check_ids("prompt", ids)?;
            service.tokenizer.decode(ids, false).map_err(|error| ApiError::field("prompt", error))?
        }
    };
    let asked = request(Prompt::Text(text), generate, metadata);
    let replaced = match session.request(&asked).map_err(refusal)? {
        Verdict::Pass => return Ok(Outcome::Go),
        Verdict::Answer(text) => return Ok(Outcome::Answer(text)),
        Verdict::Replace(replaced) => replaced,
    };
    bounded(&asked.prompt, &replaced.prompt)?;
    match replaced.prompt {
        Prompt::Text(text) if asked.prompt != Prompt::Text(text.clone()) => *prompt = protocol::Prompt::Text(text),
        Prompt::Text(_) => {}
        Prompt::Chat(_) => return Err(wrong("made a chat of a raw text")),
    }
    apply(&asked.sampling, replaced.sampling, generate)?;
    Ok(Outcome::Go)
}

/// The answer's text as guests want it; `None` where they leave it.
///
/// # Errors
/// A guest refuses it.
pub fn response(guests: &Shared, text: &str, finish: FinishReason, usage: Usage) -> Result<Option<String>, ApiError> {
    let finish = match finish {
        FinishReason::Stop => Finish::Stop,
        FinishReason::Length => Finish::Length,
        FinishReason::ToolCalls => Finish::ToolCalls,
    };
    guests.with(|session| session.response(Response { text: text.to_owned(), finish, usage }))
}

/// A request's `metadata` and `user`, as guests see them: what is no text is left out.
pub fn metadata(body: &[u8]) -> Vec<(String, String)> {
    let Ok(Value::Object(body)) = serde_json::from_slice(body) else { return Vec::new() };
    let user = body.get("user").and_then(Value::as_str).map(|user| ("user".to_owned(), user.to_owned()));
    let said = body.get("metadata").and_then(Value::as_object).into_iter().flatten();
    // A request has one user, whatever else it says.
    let said = said.filter(|(key, _)| *key != "user");
    let said = said.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
    user.into_iter().chain(said).collect()
}

/// What a guest may make a prompt longer by, in bytes.
const GROWTH_BYTES_MAX: usize = 1 << 20;

/// A prompt is tokenized in the share of what the client sent.
fn bounded(before: &Prompt, after: &Prompt) -> Result<(), ApiError> {
    let bytes = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => text.len(),
        Prompt::Chat(messages) => messages.iter().map(|message| message.role.len() + message.content.len()).sum(),
    };
    match bytes(after) > bytes(before) + GROWTH_BYTES_MAX {
        true => Err(wrong(&format!("made a prompt longer by more than {GROWTH_BYTES_MAX} bytes"))),
        false => Ok(()),
    }
}

fn wrong(what: &str) -> ApiError {
    let message = format!("A guest {what}.");
    ApiError { code: Some("guest_failed".into()), ..ApiError::new(ErrorKind::Guest(502), message) }
}

fn message(message: &Value) -> Message {
    let text = |field: &str| message.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    Message { role: text("role"), content: text("content") }
}

/// The messages as a guest wants them: those that it has left as they were keep what guests cannot see.
fn merge(messages: &Value, before: &[Message], after: Vec<Message>) -> Value {
    let mut originals: Vec<(&Message, &Value)> = before.iter().zip(messages.as_array().into_iter().flatten()).collect();
    let merged = after.into_iter().map(|message| {
        // In order: of two alike the first, once.
        match originals.iter().position(|(seen, _)| **seen == message) {
            Some(at) => originals.drain(..=at).next_back().map_or(Value::Null, |(_, original)| original.clone()),
            None => json!({"role": message.role, "content": message.content}),
        }
    });
    Value::Array(merged.collect())
}

fn request(prompt: Prompt, generate: &Generate, metadata: Vec<(String, String)>) -> Request {
    let sampling = Sampling {
        temperature: generate.sampling.temperature,
        top_p: generate.sampling.top_p,
        max_tokens: generate.max_tokens,
        seed: generate.seed,
        stop: generate.stop.clone(),
        grammar: generate.constraint.as_ref().map(|constraint| grammar(&constraint.form)),
    };
    Request { model: generate.model.clone(), prompt, sampling, metadata }
}

fn grammar(form: &Form) -> Grammar {
    match form {
        Form::JsonSchema(schema) => Grammar::JsonSchema(schema.to_string()),
        Form::Regex(regex) => Grammar::Regex(regex.clone()),
        Form::Lark(grammar) => Grammar::Lark(grammar.clone()),
    }
}

/// Checked as a client's own fields are: by being read as such.
fn apply(before: &Sampling, after: Sampling, generate: &mut Generate) -> Result<(), ApiError> {
    if *before == after {
        return Ok(());
    }
    let mut fields =
        Map::from_iter([("model".to_owned(), json!(generate.model)), ("stop".to_owned(), json!(after.stop))]);
    fields.extend(after.temperature.map(|value| ("temperature".to_owned(), json!(value))));
    fields.extend(after.top_p.map(|value| ("top_p".to_owned(), json!(value))));
    fields.extend(after.max_tokens.map(|value| ("max_tokens".to_owned(), json!(value))));
    let form = if after.grammar == before.grammar { None } else { Some(after.grammar) };
    fields.extend(form.clone().flatten().map(|grammar| match grammar {
        Grammar::JsonSchema(schema) => ("guided_json".to_owned(), json!(schema)),
        Grammar::Regex(regex) => ("guided_regex".to_owned(), json!(regex)),
        Grammar::Lark(grammar) => ("guided_grammar".to_owned(), json!(grammar)),
    }));
    let checked =
        Generate::check(&fields).map_err(|error| wrong(&format!("asked for what nobody may: {}", error.message)))?;
    generate.sampling.temperature = checked.sampling.temperature;
    generate.sampling.top_p = checked.sampling.top_p;
    (generate.max_tokens, generate.stop, generate.seed) = (checked.max_tokens, checked.stop, after.seed);
    if form.is_some() {
        generate.constraint = checked.constraint;
    }
    Ok(())
}
