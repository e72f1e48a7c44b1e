//! Our own answers: OpenAI's error objects, and JSON.

use std::time::Duration;

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use protocol::{ApiError, ErrorKind};
use serde::Serialize;

use crate::slot::Refusal;

/// An error as a response.
pub fn error(error: &ApiError) -> Response {
    let mut response = typed(error.status(), "application/json", error.to_json());
    if let Some(seconds) = error.retry_after_s {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A value as a response.
pub fn json(value: &impl Serialize) -> Response {
    let body = serde_json::to_string(value).expect("our answers have string keys and serialise");
    typed(StatusCode::OK, "application/json", body)
}

/// A body of this type.
pub fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    (status, [(CONTENT_TYPE, HeaderValue::from_static(content_type))], body.into()).into_response()
}

/// What a client is told who was turned away.
pub fn refusal(model: &str, refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::Full => {
            ApiError::new(ErrorKind::QueueFull, format!("Too many requests wait for the model '{model}'."))
                .retry_after(1)
        }
        Refusal::TenantFull => {
            let message = format!("Too many of your requests wait for the model '{model}'.");
            ApiError::new(ErrorKind::QueueFull, message).retry_after(1)
        }
        Refusal::TooLate { retry_after } => {
            let seconds = whole_seconds(retry_after);
            let message = format!(
                "The model '{model}' could not answer within the request's deadline: it takes about {seconds} s to get there."
            );
            ApiError::new(ErrorKind::Unavailable, message).retry_after(seconds)
        }
        Refusal::Failed { failure, retry_after } => {
            let seconds = whole_seconds(retry_after);
            let message = format!("The model '{model}' cannot be started: {}", failure.message);
            ApiError::new(ErrorKind::Unavailable, message).retry_after(seconds)
        }
        Refusal::Poison => {
            let message = format!("The runtime of the model '{model}' died while it worked on this request, twice.");
            ApiError::new(ErrorKind::Internal, message)
        }
        Refusal::Closing => ApiError::new(ErrorKind::Unavailable, "This server is shutting down.").retry_after(1),
    }
}

/// Rounded up: earlier would be too early.
fn whole_seconds(time: Duration) -> u32 {
    (time.as_secs_f64().ceil() as u32).max(1)
}
