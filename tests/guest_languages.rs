//! The contract with guests from other languages: the SDK's examples in Python and JavaScript, built as their README says, with their cases and as
//! clients see them.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;
use support::Serve;
use support::models::golden_folder;
use support::process::{pilotlight, run};
use support::tools::{node_tools, python_tools};
use tempfile::TempDir;

const SDK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/guest-sdk");

/// A copy of an example and of the WIT that it names, so that nothing is built into the repository.
fn copy(name: &str) -> (TempDir, PathBuf) {
    let copy = tempfile::tempdir().unwrap();
    let folder = copy.path().join("examples").join(name);
    for (from, to) in [(format!("{SDK}/examples/{name}"), &folder), (format!("{SDK}/wit"), &copy.path().join("wit"))] {
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        let (code, _, errors) = run(Command::new("cp").arg("-r").arg(from).arg(to));
        assert_eq!(code, Some(0), "{errors}");
    }
    (copy, folder)
}

/// Its cases; then the tiny model with it.
fn try_out(folder: &Path) -> (TempDir, Serve) {
    let (code, said, errors) = run(pilotlight().args(["guest", "test"]).arg(folder));
    assert_eq!(code, Some(0), "{said}{errors}");
    let out = tempfile::tempdir().unwrap();
    let snapshot = out.path().join("m.snapshot");
    let mut seal = pilotlight();
    seal.arg("seal").arg(golden_folder("llama3-tiny")).arg("-o").arg(&snapshot);
    let (code, _, errors) = run(seal.arg("--guest").arg(folder.join("guest.toml")));
    assert_eq!(code, Some(0), "{errors}");
    let server = Serve::start(&["--model", &format!("m={}", snapshot.display()), "--idle", "60s"]);
    (out, server)
}

#[test]
fn a_guest_in_python_explains_words_before_the_model_sees_them() {
    let Some(tools) = python_tools(&format!("{SDK}/examples/glossary/requirements.txt")) else { return };
    let (_copy, folder) = copy("glossary");
    let mut build = Command::new(tools.join("componentize-py"));
    build.args(["-d", "../../wit", "-w", "request-hook", "componentize", "app", "-o", "glossary.wasm", "--stub-wasi"]);
    let (code, said, errors) = run(build.current_dir(&folder));
    assert_eq!(code, Some(0), "{said}{errors}");
    let (_out, server) = try_out(&folder);
    let prompt_tokens = |content: &str| {
        let messages = json!([{"role": "user", "content": content}]);
        let answer = server.post("/v1/chat/completions", &json!({"model": "m", "messages": messages, "max_tokens": 4}));
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    assert!(prompt_tokens("who is the keeper") > prompt_tokens("who is the sleeper") + 10);
}

#[test]
fn a_guest_in_javascript_masks_words_wherever_a_text_is_cut() {
    let Some(tools) = node_tools(&format!("{SDK}/examples/words")) else { return };
    let (_copy, folder) = copy("words");
    std::os::unix::fs::symlink(tools.join("node_modules"), folder.join("node_modules")).unwrap();
    let (code, said, errors) = run(Command::new("node").arg("build.mjs").current_dir(&folder));
    assert_eq!(code, Some(0), "{said}{errors}");
    let (_out, server) = try_out(&folder);
    for seed in 0..6 {
        let body = json!({"model": "m", "prompt": [5, 9, 12], "max_tokens": 200, "seed": seed, "temperature": 2,
            "guided_regex": "well, heck and darn it"});
        let answer = server.post("/v1/completions", &body);
        assert_eq!(answer.json()["choices"][0]["text"], "well, *** and *** it", "{}", answer.text());
    }
}
