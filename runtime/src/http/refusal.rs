//! [`ApiError`] as an HTTP response.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header};
use protocol::{
    ApiError, ErrorKind,
    resume::{INTERRUPTED_HEADER, IS_BROKEN, IS_INTERRUPTED},
    usage::{USED_HEADER, Used},
};

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
        let goes_on = match self.0.kind {
            ErrorKind::Interrupted => Some(IS_INTERRUPTED),
            ErrorKind::Broken => Some(IS_BROKEN),
            _ => None,
        };
        if let Some(why) = goes_on {
            response.headers_mut().insert(INTERRUPTED_HEADER, HeaderValue::from_static(why));
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

/// The same answer, with what it has used for the activator.
pub fn used_by(mut answer: Response, used: Used) -> Response {
    answer.headers_mut().insert(USED_HEADER, used_header(used));
    answer
}

/// The header's value.
pub fn used_header(used: Used) -> HeaderValue {
    HeaderValue::try_from(used.to_string()).expect("numbers are visible ASCII")
}
