//! A request's own deadline, as a header. **Invariant:** no clock: a duration in, a duration out.

use crate::error::ApiError;
use std::time::Duration;

/// Milliseconds that the client waits for the whole answer.
pub const TIMEOUT_HEADER: &str = "x-request-timeout-ms";
/// No request may ask for a later deadline.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Where neither the request nor the operator names one.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5 * 60);

/// What the header's value asks for.
///
/// # Errors
/// 400 where it is no whole number above 0.
pub fn timeout(value: &[u8]) -> Result<Duration, ApiError> {
    let milliseconds = std::str::from_utf8(value).ok().and_then(|value| value.trim().parse::<u64>().ok());
    match milliseconds {
        Some(milliseconds @ 1..) => Ok(Duration::from_millis(milliseconds).min(TIMEOUT_MAX)),
        Some(0) | None => Err(ApiError::field("X-Request-Timeout-Ms", "must be a whole number above 0")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_above_0_are_taken_and_cut_at_the_bound() {
        assert_eq!(timeout(b" 50 "), Ok(Duration::from_millis(50)));
        assert_eq!(timeout(b"99999999999999"), Ok(TIMEOUT_MAX));
        for wrong in ["0", "", "1.5", "-1", "soon", "99999999999999999999999"] {
            assert_eq!(timeout(wrong.as_bytes()).map_err(|e| e.status().as_u16()), Err(400), "{wrong}");
        }
        assert!(timeout(b"\xff").is_err());
    }
}
