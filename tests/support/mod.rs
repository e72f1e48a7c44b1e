//! What the tests of the whole command share: the real binary, sealed models, a server that ends with its test, a small
//! HTTP client, and the tools from other ecosystems that judge us.
//!
//! **Invariant:** everything runs on loopback with ports that the system picks, no test ends a process that it did not
//! start, and nothing outside the repository and `target/` is written (tools and models: the user's cache folder).
//!
//! ```ignore
//! let server = Serve::start(&["--model", &format!("tiny={}", golden("llama3-tiny", "f32").display())]);
//! let answer = server.post("/v1/completions", &json!({"model": "tiny", "prompt": [1, 2, 3]}));
//! ```
#![allow(dead_code, unused_imports, reason = "each test binary uses its own part")]
#![allow(clippy::unwrap_used, reason = "a broken test bench is a failed test")]

pub mod client;
pub mod models;
pub mod process;
pub mod server;
pub mod tools;

pub use client::{Body, Response, request};
pub use models::{golden, golden_portable, minilm, smollm2, with_tools};
pub use process::{ended_within, pilotlight};
pub use server::Serve;
pub use tools::{in_ci, test_tools};

use std::time::{Duration, Instant};

/// The longest that any test waits for something that must happen; a hang guard, never a promise of speed.
pub const PATIENCE: Duration = Duration::from_secs(400);

/// Waits until `condition` gives a value, for a state that no event announces (`/slots`, `/proc`).
///
/// # Panics
/// After [`PATIENCE`], naming what was waited for.
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < give_up, "waited {PATIENCE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
