//! Sealed models for tests: each is sealed once per build of the binary, by the first test that asks, with the real `pilotlight seal`.

use super::process::pilotlight;
use super::tools::script;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// The folder of a golden model in the repository.
pub fn golden_folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// A golden model, sealed with `--weights` this word (`f32`, `native`, …).
pub fn golden(name: &str, weights: &str) -> PathBuf {
    sealed(&golden_folder(name), name, weights)
}

/// The golden model `name` in rows, for any processor.
pub fn golden_portable(name: &str, weights: &str) -> PathBuf {
    sealed_with(&golden_folder(name), &format!("{name}-portable"), weights, &["--target", "cpu:portable"])
}

/// SmolLM2-135M-Instruct sealed `native`. `None`, with a line that says so, where the model cannot be had; never with `CI=true`.
pub fn smollm2() -> Option<PathBuf> {
    Some(sealed(&smollm2_source()?, "smollm2", "native"))
}

/// The file that [`smollm2`] is sealed from.
pub fn smollm2_source() -> Option<PathBuf> {
    Some(Path::new(&script("test-models")?).join("SmolLM2-135M-Instruct.Q4_1.gguf"))
}

/// all-MiniLM-L6-v2 sealed `native`, in the same way.
pub fn minilm() -> Option<PathBuf> {
    Some(sealed(&minilm_source()?, "minilm", "native"))
}

/// The folder that [`minilm`] is sealed from.
pub fn minilm_source() -> Option<PathBuf> {
    Some(Path::new(&script("test-models")?).join("all-MiniLM-L6-v2"))
}

/// The tiny Llama with a chat template that has a place for tools, in the style of Hermes and Qwen.
pub fn with_tools() -> PathBuf {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"] {
        fs::copy(golden_folder("llama3-tiny").join(file), folder.path().join(file)).unwrap();
    }
    let template = "{% if tools %}{{ tools | tojson }} Answer with <tool_call></tool_call>.{% endif %}\
        {% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}<tool_call>\
        {{ c.function.name }} {{ c.function.arguments | tojson }}</tool_call>{% endfor %}\n{% endfor %}";
    let config = serde_json::json!({"chat_template": template, "bos_token": "<|bos|>", "eos_token": "<|eos|>"});
    fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    sealed(folder.path(), "caller", "native")
}

fn sealed(source: &Path, name: &str, weights: &str) -> PathBuf {
    sealed_with(source, name, weights, &[])
}

/// Seals under a lock between the test processes. The file's name holds the binary's identity, so that a snapshot is
/// never older than the code that reads it; those of older builds are removed.
fn sealed_with(source: &Path, name: &str, weights: &str, options: &[&str]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sealed");
    fs::create_dir_all(&folder).unwrap();
    let lock = File::create(folder.join(format!("{name}.{weights}.lock"))).unwrap();
    lock.lock().unwrap();
    let prefix = format!("{name}.{weights}.");
    let file = folder.join(format!("{prefix}{}.snapshot", build()));
    if !file.exists() {
        for old in fs::read_dir(&folder).unwrap().flatten() {
            let old_name = old.file_name().into_string().unwrap_or_default();
            if old_name.starts_with(&prefix) && old_name.ends_with(".snapshot") {
                let _ = fs::remove_file(old.path());
            }
        }
        let mut seal = pilotlight();
        seal.arg("seal").arg(source).arg("-o").arg(&file).args(["--weights", weights]).args(options);
        let output = seal.output().unwrap();
        assert!(output.status.success(), "{seal:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    file
}

/// What tells one build of the binary from another: its length and the time it was written.
fn build() -> String {
    let binary = fs::metadata(env!("CARGO_BIN_EXE_pilotlight")).unwrap();
    let written = binary.modified().unwrap().duration_since(UNIX_EPOCH).unwrap();
    format!("{:x}-{:x}", binary.len(), written.as_nanos())
}
