//! A request's body, bounded.

use axum::body::Body;
use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use protocol::{ApiError, BODY_BYTES_MAX, ErrorKind};

/// The whole body.
///
/// # Errors
/// 413 over the limit (before reading, where the length is announced); 400 where it breaks off.
pub async fn read(request: Request<Body>) -> Result<Bytes, ApiError> {
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|n| n > BODY_BYTES_MAX as u64) {
        return Err(too_large());
    }
    match Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => Err(too_large()),
        Err(e) => Err(ApiError::new(ErrorKind::InvalidRequest, format!("the body broke off: {e}"))),
    }
}

fn too_large() -> ApiError {
    ApiError::new(ErrorKind::TooLarge, format!("the body is larger than the limit of {BODY_BYTES_MAX} bytes"))
}
