//! Small models written by hand, for every test that needs a file: `mod support;` in a test's root.
#![allow(dead_code, clippy::unwrap_used)]

pub mod gguf;
pub mod huggingface;
pub mod llama;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The repository's golden files.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name)
}

/// A golden file of JSON.
pub fn golden_json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

/// The real SmolLM2; `None` as in [`models`].
pub fn smollm2() -> Option<PathBuf> {
    Some(models()?.join("SmolLM2-135M-Instruct.Q4_1.gguf"))
}

/// Real vocabularies with texts and their ids, out of llama.cpp's sources; `None` as in [`models`].
pub fn vocabularies() -> Option<PathBuf> {
    Some(models()?.join("llama.cpp/models"))
}

/// The folder of what `scripts/test-models` fetches where it is not there yet. `None`, with the reason, where it cannot be
/// had; never with `CI=true`.
fn models() -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/test-models");
    let output = Command::new(&script).stdin(Stdio::null()).output().unwrap();
    if output.status.success() {
        return String::from_utf8_lossy(&output.stdout).lines().last().map(PathBuf::from);
    }
    let reason = format!("scripts/test-models: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    assert!(std::env::var("CI").as_deref() != Ok("true"), "may not be skipped with CI=true: {reason}");
    eprintln!("SKIPPED: {reason}");
    None
}
