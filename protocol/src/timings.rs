//! The cold-start timeline, measured along a request's way and returned to the client.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digits;

/// Header in which the activator tells the runtime, as JSON, what this request has been through: a [`Wake`].
/// Stripped from what clients send.
pub const WAKE_HEADER: &str = "pilotlight-wake";

/// Header in which the activator tells the runtime whose keys and values this request may share: 128 bits in hexadecimal.
/// Absent: all requests share. Stripped from what clients send.
pub const SCOPE_HEADER: &str = "pilotlight-scope";

/// Header in which the activator gives a request without a `seed` one, in decimal, so that whoever computes it samples the
/// same. Stripped from what clients send.
pub const SEED_HEADER: &str = "pilotlight-seed";

/// What a request went through before it reached the runtime.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Wake {
    /// The slot was not ready when the request arrived.
    pub cold: bool,
    /// From arrival to being forwarded.
    pub held_ms: f64,
    /// The part of it in which a process was started.
    pub launch_ms: f64,
    /// The part of it in which the snapshot was restored.
    pub restore_ms: f64,
}

impl Wake {
    /// As JSON, to the nanosecond. Every request has one, so that it is written by hand.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut impl fmt::Write) -> fmt::Result {
        out.write_str(if self.cold { r#"{"cold":true,"held_ms":"# } else { r#"{"cold":false,"held_ms":"# })?;
        digits::milliseconds(self.held_ms, out)?;
        out.write_str(r#","launch_ms":"#)?;
        digits::milliseconds(self.launch_ms, out)?;
        out.write_str(r#","restore_ms":"#)?;
        digits::milliseconds(self.restore_ms, out)?;
        out.write_str("}")
    }
}

/// `timings` of non-streaming answers and of the last chunk of a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// Prompt tokens.
    pub prompt_n: u32,
    /// From the engine's admission of the sequence to the end of its prefill.
    pub prompt_ms: f64,
    /// Generated tokens.
    pub predicted_n: u32,
    /// From the first generated token to the last.
    pub predicted_ms: f64,
    /// What came before the runtime.
    #[serde(flatten)]
    pub wake: Wake,
    /// From the request's arrival (at the activator, where there is one) to its first token.
    pub first_token_ms: f64,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_a_request_went_through_is_read_as_it_was_written(
            cold: bool, held_ms in 0.0..1e7, launch_ms in 0.0..1e4, restore_ms in prop_oneof![Just(0.0), 0.0..1.0],
        ) {
            let wake = Wake { cold, held_ms, launch_ms, restore_ms };
            let mut written = String::new();
            wake.write(&mut written).unwrap();
            let read: Wake = serde_json::from_str(&written).unwrap();
            prop_assert_eq!(read.cold, cold);
            for (read, was) in [(read.held_ms, held_ms), (read.launch_ms, launch_ms), (read.restore_ms, restore_ms)] {
                prop_assert!((read - was).abs() < 1e-6, "{} for {}", read, was);
            }
        }
    }
}
