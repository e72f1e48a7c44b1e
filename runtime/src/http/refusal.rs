//! [`ApiError`] as an HTTP response.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header};
use protocol::{ApiError, ErrorKind, resume::INTERRUPTED_HEADER};

/// An error to answer with.
pub struct Refusal(pub ApiError);

impl From<ApiError> for Refusal {
    fn from(e: ApiError) -> Self {
        Self(e)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = json(self.0.to_json());
        *response.status_mut() = self.0.status();
        if let Some(seconds) = self.0.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if self.0.kind == ErrorKind::Interrupted {
            response.headers_mut().insert(INTERRUPTED_HEADER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// A response with this JSON.
pub fn json(text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A response with this value as JSON.
pub fn json_of<T: serde::Serialize>(value: &T) -> Response {
    json(serde_json::to_string(value).expect("answers have string keys and serialise"))
}
