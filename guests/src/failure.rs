//! Why a guest's call came to nothing, and what a client is told.

use crate::{spec::OnFailure, types::Rejection};

/// What a guest did wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Its time ran out.
    #[error("took longer than its {budget_ms} ms")]
    TooSlow {
        /// What it had.
        budget_ms: u64,
    },
    /// It trapped: in its own words, such as `unreachable` or `out of bounds memory access`.
    #[error("trapped: {0}")]
    Trapped(String),
    /// It settled text that is not there, cut a character, held back too much or for too long, or anything at the end.
    #[error("{0}")]
    Invalid(String),
    /// There is no room for another instance.
    #[error("cannot be instantiated: {0}")]
    NoInstance(String),
}

/// Why a request goes no further, as its client is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// HTTP status, 400 to 599.
    pub status: u16,
    /// OpenAI's `code`.
    pub code: String,
    /// For people.
    pub message: String,
}

impl Refused {
    /// A guest failed whose plug-in is closed.
    pub(crate) fn failed(plugin: &str, failure: &Failure) -> Self {
        let (status, code) = match failure {
            Failure::TooSlow { .. } => (504, "guest_timeout"),
            Failure::Trapped(_) | Failure::Invalid(_) => (502, "guest_failed"),
            Failure::NoInstance(_) => (503, "guest_unavailable"),
        };
        Self { status, code: code.into(), message: format!("The guest '{plugin}' {failure}.") }
    }

    /// What guests allow one by one leaves nothing together.
    pub(crate) fn no_token() -> Self {
        Self { status: 502, code: "guest_failed".into(), message: "The guests together allow no token.".into() }
    }

    /// A guest refused. A status that is no refusal is 400, and what it says is cut to what an error can be.
    pub(crate) fn rejected(rejection: Rejection) -> Self {
        let Rejection { status, mut code, mut message } = rejection;
        let status = if (400..=599).contains(&status) { status } else { 400 };
        code.truncate(code.floor_char_boundary(100));
        message.truncate(message.floor_char_boundary(4096));
        if message.is_empty() {
            message.push_str("A guest refused this request, and does not say why.");
        }
        Self { status, code, message }
    }
}

/// What becomes of a request whose guest has failed; it goes on without it where that is allowed. Never for want of room: a guard that is left out
/// when much is asked is none.
pub(crate) fn judge(plugin: &str, policy: OnFailure, failure: Failure) -> Result<(), Refused> {
    match policy {
        OnFailure::Open if !matches!(failure, Failure::NoInstance(_)) => {
            tracing::warn!(guest = plugin, %failure, "a guest failed, and its request goes on without it");
            Ok(())
        }
        OnFailure::Closed | OnFailure::Open => {
            tracing::warn!(guest = plugin, %failure, "a guest failed, and its request with it");
            Err(Refused::failed(plugin, &failure))
        }
    }
}
