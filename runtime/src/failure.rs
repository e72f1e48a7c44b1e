//! Why a runtime cannot go on: whose fault it is, and with which code the process exits (sysexits).

use protocol::{ApiError, ErrorKind, control::FailureKind};
use std::process::ExitCode;

/// The end of a runtime.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// For the decision to retry.
    pub kind: FailureKind,
    /// What happened, with section and offset where bytes were bad.
    pub message: String,
}

impl Failure {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// Ours.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(FailureKind::Internal, message)
    }

    /// What requests that wait are answered with.
    pub fn refusal(&self) -> ApiError {
        ApiError::new(ErrorKind::Unavailable, format!("the model cannot run: {}", self.message))
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self.kind {
            FailureKind::BadSnapshot => 65,
            FailureKind::Unsupported | FailureKind::OutOfMemory => 69,
            FailureKind::Internal => 70,
        })
    }
}

impl From<&snapshot::Error> for Failure {
    fn from(e: &snapshot::Error) -> Self {
        let kind = if e.is_bad_data() { FailureKind::BadSnapshot } else { FailureKind::Internal };
        Self::new(kind, e.to_string())
    }
}

impl From<models::Error> for Failure {
    fn from(e: models::Error) -> Self {
        let kind = match &e {
            models::Error::Snapshot(e) => return e.into(),
            models::Error::Io(_) | models::Error::Device(_) => FailureKind::Internal,
            models::Error::BadModel(_) => FailureKind::BadSnapshot,
            models::Error::Unsupported(_) => FailureKind::Unsupported,
        };
        Self::new(kind, e.to_string())
    }
}
