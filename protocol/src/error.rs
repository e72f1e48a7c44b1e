//! Errors as clients see them: one kind, one HTTP status, one OpenAI error object.
//!
//! **Invariant:** statuses and error types are decided in [`ErrorKind::facts`] alone.

use http::StatusCode;
use serde::{Deserialize, Serialize};

/// What went wrong, by who can do something about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request's bytes or fields are wrong.
    InvalidRequest,
    /// A known feature that this version does not have.
    Unsupported,
    /// Prompt and generation do not fit into the model's context.
    ContextLength,
    /// No or a wrong key.
    Unauthorized,
    /// The key is good, but not for this.
    Forbidden,
    /// No model of this name.
    ModelNotFound,
    /// No such path.
    NotFound,
    /// The path exists, but not with this method.
    MethodNotAllowed,
    /// The body is larger than the limit.
    TooLarge,
    /// A bounded queue is full.
    QueueFull,
    /// Who asks has used up what it may.
    RateLimited,
    /// Ours.
    Internal,
    /// No capacity, or the model cannot be started.
    Unavailable,
    /// The request's deadline has passed.
    DeadlineExceeded,
    /// A guest refused it, or failed: with this status, 400 to 599.
    Guest(u16),
    /// This process was told to end before it could finish it, and another can.
    Interrupted,
    /// What computes has broken: this process is about to end, and another may be able to.
    Broken,
}

impl ErrorKind {
    /// The one table: HTTP status, OpenAI `type`, OpenAI `code`.
    fn facts(self) -> (StatusCode, &'static str, Option<&'static str>) {
        const INVALID: &str = "invalid_request_error";
        match self {
            Self::InvalidRequest => (StatusCode::BAD_REQUEST, INVALID, None),
            Self::Unsupported => (StatusCode::BAD_REQUEST, INVALID, Some("unsupported_parameter")),
            Self::ContextLength => (StatusCode::BAD_REQUEST, INVALID, Some("context_length_exceeded")),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "authentication_error", Some("invalid_api_key")),
            Self::Forbidden => (StatusCode::FORBIDDEN, "permission_error", None),
            Self::ModelNotFound => (StatusCode::NOT_FOUND, INVALID, Some("model_not_found")),
            Self::NotFound => (StatusCode::NOT_FOUND, INVALID, Some("unknown_url")),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, INVALID, Some("method_not_allowed")),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, INVALID, Some("request_too_large")),
            Self::QueueFull => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("queue_full")),
            Self::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some("rate_limit_exceeded")),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "server_error", Some("internal_error")),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("unavailable")),
            Self::DeadlineExceeded => (StatusCode::GATEWAY_TIMEOUT, "timeout_error", Some("deadline_exceeded")),
            Self::Guest(status) => {
                (StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY), "guest_error", None)
            }
            Self::Broken => (StatusCode::INTERNAL_SERVER_ERROR, "server_error", Some("internal_error")),
            Self::Interrupted => (StatusCode::SERVICE_UNAVAILABLE, "server_error", Some("interrupted")),
        }
    }
}

/// An error as a client gets it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Decides status, `type` and `code`.
    pub kind: ErrorKind,
    /// For people: what is wrong and what to do. Starts with the field's name where one is to blame.
    pub message: String,
    /// The field to blame, as a path: `messages[0].content`.
    pub param: Option<String>,
    /// `Retry-After`, in seconds, where trying again may help.
    pub retry_after_s: Option<u32>,
    /// A `code` of its own, where a guest gives it one.
    pub code: Option<String>,
}

impl ApiError {
    /// An error that no single field is to blame for.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), param: None, retry_after_s: None, code: None }
    }

    /// `field: problem`, with the field as `param`.
    pub fn field(param: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        let param = param.into();
        Self { message: format!("{param}: {problem}"), param: Some(param), ..Self::new(ErrorKind::InvalidRequest, "") }
    }

    /// A known field whose feature this version does not have.
    pub fn unsupported(param: impl Into<String>, what: impl std::fmt::Display) -> Self {
        Self { kind: ErrorKind::Unsupported, ..Self::field(param, format_args!("{what} is not supported yet")) }
    }

    /// Prompt and generation together are longer than the context; both numbers are named.
    pub fn context_length(prompt: usize, max_tokens: usize, context: usize) -> Self {
        let message = format!(
            "This model's maximum context length is {context} tokens, but {} were requested \
             ({prompt} in the prompt, {max_tokens} to generate). Shorten the prompt or lower max_tokens.",
            prompt.saturating_add(max_tokens),
        );
        Self { param: Some("max_tokens".into()), ..Self::new(ErrorKind::ContextLength, message) }
    }

    /// A text that is too long for the context whatever its tokens are.
    pub fn text_too_long(param: impl Into<String>, bytes: usize, bytes_max: usize, context: usize) -> Self {
        let problem = format_args!(
            "a text of {bytes} bytes cannot fit: this model's maximum context length is {context} tokens, \
             at most {bytes_max} bytes"
        );
        Self { kind: ErrorKind::ContextLength, ..Self::field(param, problem) }
    }

    /// A request's deadline has passed.
    pub fn deadline_exceeded() -> Self {
        Self::new(ErrorKind::DeadlineExceeded, "The request's deadline has passed.")
    }

    /// No model of this name.
    pub fn model_not_found(model: &str) -> Self {
        let mut shown: String = model.chars().take(100).collect();
        if shown.len() < model.len() {
            shown.push('…');
        }
        Self {
            param: Some("model".into()),
            ..Self::new(ErrorKind::ModelNotFound, format!("The model '{shown}' does not exist."))
        }
    }

    /// The same with a `Retry-After`.
    #[must_use]
    pub fn retry_after(self, seconds: u32) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.kind.facts().0
    }

    /// The OpenAI error object.
    pub fn body(&self) -> ErrorBody {
        let (_, kind, code) = self.kind.facts();
        ErrorBody {
            error: ErrorObject {
                message: self.message.clone(),
                kind: kind.into(),
                param: self.param.clone(),
                code: self.code.clone().or(code.map(Into::into)),
            },
        }
    }

    /// The OpenAI error object as JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_string(&self.body()).expect("strings always serialise")
    }
}

/// `{"error": {…}}`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The error itself.
    pub error: ErrorObject,
}

/// OpenAI's error object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorObject {
    /// For people.
    pub message: String,
    /// OpenAI's class of errors.
    #[serde(rename = "type")]
    pub kind: String,
    /// The field to blame.
    pub param: Option<String>,
    /// For programs.
    pub code: Option<String>,
}
