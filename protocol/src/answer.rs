//! Answers: chat and text completions, whole and as chunks of a stream, and the list of models.
//!
//! `Option`s that OpenAI sends as `null` are sent as `null`; those it leaves out are left out.

use crate::timings::Timings;
use serde::{Deserialize, Serialize};

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// An end token or a stop string.
    Stop,
    /// `max_tokens`, or the end of the context.
    Length,
    /// The model calls tools.
    ToolCalls,
}

/// Tokens read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// In the prompt or prompts.
    pub prompt_tokens: u32,
    /// Generated, over all choices.
    pub completion_tokens: u32,
    /// Both.
    pub total_tokens: u32,
}

impl Usage {
    /// Both numbers and their sum.
    pub fn new(prompt_tokens: u32, completion_tokens: u32) -> Self {
        Self { prompt_tokens, completion_tokens, total_tokens: prompt_tokens.saturating_add(completion_tokens) }
    }
}

/// An answer or a chunk of one: what all four kinds have in common, around their kind of choice.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Envelope<C> {
    /// The same in all chunks of a stream.
    pub id: String,
    /// The kind: one of the `OBJECT` constants.
    pub object: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model that answered.
    pub model: String,
    /// Empty in the chunk that carries `usage` alone.
    pub choices: Vec<C>,
    /// In whole answers, and in the last chunk of a stream that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// In whole answers, and in the last chunk of a stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
}

/// A whole chat answer.
pub type ChatAnswer = Envelope<ChatChoice>;
/// One event of a chat stream.
pub type ChatChunk = Envelope<ChatChunkChoice>;
/// A whole text completion, or one event of its stream: OpenAI uses one shape for both.
pub type Completion = Envelope<CompletionChoice>;

/// `object` of a [`ChatAnswer`].
pub const CHAT_OBJECT: &str = "chat.completion";
/// `object` of a [`ChatChunk`].
pub const CHAT_CHUNK_OBJECT: &str = "chat.completion.chunk";
/// `object` of a [`Completion`].
pub const COMPLETION_OBJECT: &str = "text_completion";

/// One of the answers of a chat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatChoice {
    /// From 0.
    pub index: u32,
    /// What the assistant says.
    pub message: ChatMessage,
    /// Where asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ended.
    pub finish_reason: Option<FinishReason>,
}

/// What the assistant says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `assistant`
    pub role: String,
    /// The text.
    pub content: Option<String>,
    /// Always `null`: refusing is up to the model's text.
    pub refusal: Option<String>,
    /// What it calls, where it calls something.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// A call of a tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// For the message that will carry the result.
    pub id: String,
    /// `function`
    #[serde(rename = "type")]
    pub kind: String,
    /// What is called.
    pub function: FunctionCall,
}

/// A function and what it is called with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionCall {
    /// Which function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// JSON, as text; a fragment of it in a stream.
    pub arguments: String,
}

/// What is new of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCallDelta {
    /// Which of the choice's calls, from 0.
    pub index: u32,
    /// In the call's first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`, in the call's first chunk.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Its name in the first chunk, and more arguments.
    pub function: FunctionCall,
}

/// A part of one of the answers of a chat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatChunkChoice {
    /// From 0.
    pub index: u32,
    /// What is new.
    pub delta: ChatDelta,
    /// Of the tokens that are new, where asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// In the last chunk of the choice.
    pub finish_reason: Option<FinishReason>,
}

/// What is new since the last chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatDelta {
    /// `assistant`, in the first chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// More text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// More of calls.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCallDelta>,
}

/// Log probabilities in the chat endpoint's style.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatLogprobs {
    /// One per generated token.
    pub content: Vec<TokenLogprob>,
    /// Always `null`.
    pub refusal: Option<Vec<TokenLogprob>>,
}

/// A generated token and its alternatives.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// Its text, or `token_id:N`.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes, which need not be whole characters.
    pub bytes: Option<Vec<u8>>,
    /// The likeliest tokens at this place, best first.
    pub top_logprobs: Vec<TopLogprob>,
}

/// A token that could have been generated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopLogprob {
    /// Its text, or `token_id:N`.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its bytes, which need not be whole characters.
    pub bytes: Option<Vec<u8>>,
}

/// One of the texts of a completion, or a part of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompletionChoice {
    /// The text, or what is new of it.
    pub text: String,
    /// Prompt by prompt, `n` for each, from 0.
    pub index: u32,
    /// Of the tokens in `text`, where asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// Why it ended.
    pub finish_reason: Option<FinishReason>,
}

/// Log probabilities in the text endpoint's style: four lists of the same length.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CompletionLogprobs {
    /// Texts of the tokens, or `token_id:N`.
    pub tokens: Vec<String>,
    /// Natural logarithms of their probabilities; none for the first token of a prompt that is given back.
    pub token_logprobs: Vec<Option<f32>>,
    /// Token → log probability of the likeliest, best first, and of the token itself.
    pub top_logprobs: Vec<Option<serde_json::Map<String, serde_json::Value>>>,
    /// Where each token starts in the generated text, in characters.
    pub text_offset: Vec<usize>,
}

/// The answer of `GET /v1/models`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelList {
    /// `list`
    pub object: String,
    /// The models.
    pub data: Vec<ModelCard>,
}

impl ModelList {
    /// A list of these models.
    pub fn new(data: Vec<ModelCard>) -> Self {
        Self { object: "list".into(), data }
    }
}

/// The answer of `GET /v1/models/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCard {
    /// What `model` names it.
    pub id: String,
    /// `model`
    pub object: String,
    /// Seconds since 1970; 0 where unknown.
    pub created: u64,
    /// `pilotlight`
    pub owned_by: String,
}

impl ModelCard {
    /// A model of this name.
    pub fn new(id: impl Into<String>, created: u64) -> Self {
        Self { id: id.into(), object: "model".into(), created, owned_by: "pilotlight".into() }
    }
}
