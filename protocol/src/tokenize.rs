//! `POST /tokenize` and `POST /detokenize`, in vLLM's shapes.

use crate::{
    chat::messages,
    error::ApiError,
    fields::{Fields, object, token_ids},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is to be turned into token ids.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenizeInput {
    /// Text as it is.
    Prompt(String),
    /// A chat, rendered by the model's template first.
    Messages {
        /// As in [`crate::ChatRequest::messages`].
        messages: Value,
        /// The rendered prompt ends with the header of the assistant's answer.
        add_generation_prompt: bool,
    },
}

/// Text or a chat to be turned into token ids.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenizeRequest {
    /// The model asked for; may be left out where there is only one.
    pub model: Option<String>,
    /// What to tokenise.
    pub input: TokenizeInput,
    /// Add what the tokenizer adds (BOS). Default: for text, but not for a chat, whose template writes its own.
    pub add_special_tokens: bool,
    /// Answer with the tokens' strings, too.
    pub return_token_strs: bool,
}

/// Token ids to be turned into text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DetokenizeRequest {
    /// The model asked for; may be left out where there is only one.
    pub model: Option<String>,
    /// The ids.
    pub tokens: Vec<u32>,
}

/// The answer of `/tokenize`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizeAnswer {
    /// Number of tokens.
    pub count: usize,
    /// The model's context, in tokens.
    pub max_model_len: usize,
    /// The ids.
    pub tokens: Vec<u32>,
    /// The tokens' strings, where asked for.
    pub token_strs: Option<Vec<String>>,
}

/// The answer of `/detokenize`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetokenizeAnswer {
    /// The text.
    pub prompt: String,
}

/// Reads and checks a whole request.
pub fn parse_tokenize(body: &[u8]) -> Result<TokenizeRequest, ApiError> {
    let map = object(body)?;
    let fields = Fields::root(&map);
    let (input, special) = match (fields.string("prompt")?, fields.get("messages")) {
        (Some(_), Some(_)) => {
            return Err(ApiError::field("messages", "cannot be combined with prompt"));
        }
        (Some(text), None) => (TokenizeInput::Prompt(text.to_owned()), true),
        (None, Some(_)) => (chat(&fields)?, false),
        (None, None) => return Err(ApiError::field("prompt", "is required (or messages)")),
    };
    Ok(TokenizeRequest {
        model: fields.string("model")?.map(Into::into),
        input,
        add_special_tokens: fields.bool("add_special_tokens")?.unwrap_or(special),
        return_token_strs: fields.bool("return_token_strs")?.unwrap_or(false),
    })
}

fn chat(fields: &Fields<'_>) -> Result<TokenizeInput, ApiError> {
    let add_generation_prompt = fields.bool("add_generation_prompt")?.unwrap_or(true);
    Ok(TokenizeInput::Messages { messages: messages(fields)?, add_generation_prompt })
}

/// Reads and checks a whole request.
pub fn parse_detokenize(body: &[u8]) -> Result<DetokenizeRequest, ApiError> {
    let map = object(body)?;
    let fields = Fields::root(&map);
    fields.required("tokens")?;
    let tokens = token_ids(fields.array("tokens")?.unwrap_or_default(), "tokens")?;
    Ok(DetokenizeRequest { model: fields.string("model")?.map(Into::into), tokens })
}
