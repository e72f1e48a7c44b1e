//! Server-sent events as OpenAI's clients read them: `data: JSON`, comments, and `data: [DONE]` at the end.
//!
//! Contract: a stream always ends with [`DONE`], after an error too, so that a client can tell a cut stream.

use crate::error::ApiError;
use serde::Serialize;

/// The media type of a stream.
pub const CONTENT_TYPE: &str = "text/event-stream";
/// The last event of every stream.
pub const DONE: &str = "data: [DONE]\n\n";

/// One event that carries `value` as JSON.
pub fn event<T: Serialize>(value: &T) -> String {
    // JSON escapes line breaks inside strings, so one line holds it.
    format!("data: {}\n\n", serde_json::to_string(value).expect("answers have string keys and serialise"))
}

/// A comment: clients skip it, proxies see bytes. Line breaks in it become blanks.
pub fn comment(text: &str) -> String {
    format!(": {}\n\n", text.replace(['\r', '\n'], " "))
}

/// The end of a stream that failed after its headers had left: the error as an event, then [`DONE`].
pub fn error_end(error: &ApiError) -> String {
    format!("data: {}\n\n{DONE}", error.to_json())
}
