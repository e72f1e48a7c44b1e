//! The cold-start timeline, measured along a request's way and returned to the client.

use std::fmt;

use serde::{Deserialize, Serialize};

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

impl fmt::Display for Wake {
    /// As JSON.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).expect("numbers serialise"))
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
