//! What an author of guests does, step by step as guest-sdk/README.md has it: new, build, test, seal, serve.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use support::Serve;
use support::models::golden_folder;
use support::process::{pilotlight, run};

/// A command in this folder, with the toolchain that this repository's own examples are built with.
fn in_folder(folder: &Path, words: &[&str]) -> (Option<i32>, String, String) {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/cache-dir");
    let (_, tools, _) = run(Command::new(cache).arg("guest-toolchain"));
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest-authors");
    let mut command = pilotlight();
    command.current_dir(folder).args(words);
    run(command.env("PILOTLIGHT_GUEST_TOOLS", tools.trim()).env("CARGO_TARGET_DIR", target))
}

#[test]
fn a_guest_is_made_built_tried_sealed_and_served() {
    let folder = tempfile::tempdir().unwrap();
    let (code, said, _) = in_folder(folder.path(), &["guest", "new", "loud"]);
    assert_eq!((code, said.trim()), (Some(0), "loud"));
    assert_eq!(in_folder(folder.path(), &["guest", "new", "loud"]).0, Some(64), "it is there already");
    let guest = folder.path().join("loud");
    let (code, _, errors) = in_folder(&guest, &["guest", "build"]);
    if code == Some(69) {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "may not be skipped with CI=true: {errors}");
        return eprintln!("SKIPPED: {errors}");
    }
    assert_eq!(code, Some(0), "{errors}");

    let (code, said, errors) = in_folder(&guest, &["guest", "test"]);
    assert_eq!(code, Some(0), "{said}{errors}");
    assert!(said.contains("ok     loud: ") && said.contains("ok     unchanged: "), "{said}");
    assert!(said.lines().any(|line| line.starts_with("on-text ")), "{said}");
    let (code, said, errors) = in_folder(&guest, &["guest", "bench", "--requests", "20", "--tokens", "5", "--json"]);
    assert_eq!(code, Some(0), "{errors}");
    let hooks = serde_json::from_str::<Value>(&said).unwrap()["hooks"].take();
    let calls = |what: &str| hooks[what]["calls"].as_u64();
    assert_eq!([calls("instance"), calls("on-text"), calls("request")], [Some(20), Some(20 * 6), Some(20)]);
    assert!(
        hooks["on-text"]["median_us"].as_f64().unwrap() > 0.0
            && hooks["on-text"]["memory_bytes"].as_u64().unwrap() >= 65536
    );
    std::fs::write(guest.join("cases/wrong.json"), r#"{"text": "hello", "expect": "hello"}"#).unwrap();
    let (code, said, errors) = in_folder(&guest, &["guest", "test", "--json"]);
    assert_eq!(code, Some(65), "{errors}");
    let report: Value = serde_json::from_str(&said).unwrap();
    let wrong = report["cases"].as_array().unwrap().iter().find(|case| case["case"] == "wrong").unwrap();
    assert_eq!((&wrong["failed"][0]["expected"], &wrong["failed"][0]["came"]), (&json!("hello"), &json!("HELLO")));

    let model = golden_folder("llama3-tiny").display().to_string();
    let sealed = in_folder(&guest, &["seal", &model, "--guest", "guest.toml", "-o", "loud.snapshot"]);
    assert_eq!(sealed.0, Some(0), "{}", sealed.2);
    let server =
        Serve::start(&["--model", &format!("loud={}", guest.join("loud.snapshot").display()), "--idle", "60s"]);
    let body = json!({"model": "loud", "prompt": "x", "max_tokens": 100, "guided_regex": "say hello to danger"});
    assert_eq!(server.post("/v1/completions", &body).json()["choices"][0]["text"], "say HELLO to DANGER");
}

#[test]
fn what_cannot_be_tried_or_built_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let told = |words: &[&str]| {
        let (code, _, errors) = in_folder(folder.path(), words);
        (code, errors)
    };
    let (code, said) = told(&["guest", "new", "Loud Guest"]);
    assert!(code == Some(64) && said.contains("lower-case"), "{said}");
    let (code, said) = told(&["guest", "build"]);
    assert!(code == Some(64) && said.contains("Cargo.toml"), "{said}");
    let (code, said) = told(&["guest", "test"]);
    assert!(code == Some(66) && said.contains("guest.toml"), "{said}");
    let redact =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("guest-sdk/examples/redact/redact.wasm").display().to_string();
    std::fs::create_dir(folder.path().join("cases")).unwrap();
    let (code, said) = told(&["guest", "test", &redact, "--cases", "cases"]);
    assert!(code == Some(64) && said.contains("no case"), "{said}");
    std::fs::write(folder.path().join("cases/mail.json"), r#"{"text": "to a@b.de now", "expect": "to [email] now"}"#)
        .unwrap();
    assert_eq!(told(&["guest", "test", &redact, "--cases", "cases"]).0, Some(0));
}
