//! Small models written by hand, for every test that needs a file: `mod support;` in a test's root.
#![allow(dead_code, clippy::unwrap_used)]

pub mod gguf;
pub mod huggingface;
pub mod llama;

use std::path::{Path, PathBuf};

/// The repository's golden files.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

/// A golden file of JSON.
pub fn golden_json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

/// The real SmolLM2, which `scripts/test-models` fetches. `None`, with the reason, where it is not there; never with `CI=true`.
pub fn smollm2() -> Option<PathBuf> {
    let folder = std::env::var_os("PILOTLIGHT_TEST_MODELS")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-models"), PathBuf::from);
    let file = folder.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    if file.exists() {
        return Some(file);
    }
    let reason = format!("{} is missing (scripts/test-models fetches it)", file.display());
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{reason}");
    eprintln!("skipped: {reason}");
    None
}
