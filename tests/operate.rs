//! `serve --config` for real: keys, tenants, audit, and a configuration that changes.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::path::Path;
use support::client::request;
use support::{Serve, golden, pilotlight, until};

fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = pilotlight().args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A key, and what is kept of it.
fn key() -> (String, String) {
    let (code, made, _) = run(&["key", "new", "--json"]);
    assert_eq!(code, Some(0));
    let made: Value = serde_json::from_str(&made).unwrap();
    let text = |name: &str| made[name].as_str().unwrap().to_owned();
    (format!("Bearer {}", text("key")), text("hash"))
}

fn ask(server: &Serve, authorization: &str, model: &str) -> (u16, Value) {
    let body = json!({"model": model, "prompt": [1, 2, 3]});
    let headers = [("content-type", "application/json"), ("authorization", authorization)];
    let answer = request(server.api, "POST", "/v1/completions", &headers, body.to_string().as_bytes()).unwrap();
    (answer.status, answer.json())
}

#[test]
fn a_file_says_what_is_served_to_whom_and_what_it_cost_is_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let (file, audit) = (folder.path().join("pilotlight.toml"), folder.path().join("audit.jsonl"));
    let snapshot = golden("llama3-tiny", "f32");
    std::os::unix::fs::symlink(&snapshot, folder.path().join("tiny.snapshot")).unwrap();
    let ((acme, acme_hash), (poor, poor_hash)) = (key(), key());
    let text = format!(
        "audit = \"audit.jsonl\"\nidle = \"20s\"\n\
         [models.tiny]\nsnapshot = \"./tiny.snapshot\"\naliases = [\"gpt\"]\nsampling = {{ max_tokens = 3, temperature = 0.0 }}\n\
         [tenants.acme]\nkeys = [\"{acme_hash}\"]\n\
         [tenants.poor]\nkeys = [\"{poor_hash}\"]\ntokens_per_minute = 1\n"
    );
    std::fs::write(&file, &text).unwrap();
    let path = file.to_str().unwrap();
    let (code, said, _) = run(&["config", "check", path]);
    assert_eq!((code, said.contains("models 1, tenants 2")), (Some(0), true), "{said}");

    let mut server = Serve::start(&["--config", path]);
    assert_eq!(ask(&server, "Bearer pl_x", "tiny").0, 401);
    assert_eq!(server.slot("tiny")["state"], "cold");
    let (status, answer) = ask(&server, &acme, "gpt");
    assert_eq!((status, &answer["usage"]["completion_tokens"]), (200, &json!(3)), "{answer}");
    assert_eq!(answer["model"], "tiny");
    assert_eq!(ask(&server, &poor, "tiny").0, 200, "the first goes beyond the bound");
    let (status, refused) = ask(&server, &poor, "tiny");
    assert_eq!((status, &refused["error"]["code"]), (429, &json!("rate_limit_exceeded")));
    let metrics = request(server.admin, "GET", "/metrics", &[], b"").unwrap().text();
    let billed = "pilotlight_tokens_total{model=\"tiny\",tenant=\"acme\",kind=\"completion\"} 3";
    assert!(metrics.contains(billed), "{metrics}");

    // Another name for the same model, without a restart.
    std::fs::write(&file, text.replace("\"gpt\"", "\"gpt\", \"o1\"")).unwrap();
    until("the new name", || (ask(&server, &acme, "o1").0 == 200).then_some(()));
    // A mistake is told and changes nothing.
    std::fs::write(&file, text.replace("idle", "idel")).unwrap();
    until("the mistake in the log", || server.log().contains("idel").then_some(()));
    assert_eq!(ask(&server, &acme, "o1").0, 200);
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    verified(&audit);
}

fn verified(audit: &Path) {
    let path = audit.to_str().unwrap();
    let (code, said, _) = run(&["audit", "verify", path, "--json"]);
    assert_eq!(code, Some(0), "{said}");
    let said: Value = serde_json::from_str(&said).unwrap();
    let text = std::fs::read_to_string(audit).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(said["lines"], lines.len());
    let first = &lines[0];
    assert_eq!(
        (&first["tenant"], &first["prompt_tokens"], &first["completion_tokens"]),
        (&json!("acme"), &json!(3), &json!(3))
    );
    assert_eq!(first["digest"].as_str().map(str::len), Some(64), "{first}");
    assert_eq!(run(&["audit", "verify", path, "--hash", said["hash"].as_str().unwrap()]).0, Some(0));
    std::fs::write(audit, text.replacen("\"status\":200", "\"status\":500", 1)).unwrap();
    let (code, _, why) = run(&["audit", "verify", path]);
    assert_eq!((code, why.contains("line 1, byte 0: it was changed")), (Some(65), true), "{why}");
}

#[test]
fn a_port_that_others_reach_needs_tenants_or_the_word() {
    let model = format!("tiny={}", golden("llama3-tiny", "f32").display());
    let serve = |more: &[&str]| {
        let mut command = pilotlight();
        command.args(["serve", "--listen", "0.0.0.0:0", "--admin", "127.0.0.1:0", "--model", &model]).args(more);
        Serve::try_spawn(command)
    };
    let (code, said) = serve(&[]).err().unwrap();
    assert_eq!((code, said.contains("--anonymous")), (Some(64), true), "{said}");
    assert!(serve(&["--anonymous"]).is_ok());
}

#[test]
fn what_is_printed_can_be_used() {
    let folder = tempfile::tempdir().unwrap();
    let (code, example, _) = run(&["config", "example"]);
    assert_eq!(code, Some(0));
    let path = folder.path().join("example.toml");
    std::fs::write(&path, example).unwrap();
    // All of it is understood; its model is not there.
    let (code, _, why) = run(&["config", "check", path.to_str().unwrap()]);
    assert_eq!((code, why.contains("smollm2.snapshot")), (Some(66), true), "{why}");
    let (code, schema, _) = run(&["config", "schema"]);
    let schema: Value = serde_json::from_str(&schema).unwrap();
    assert_eq!((code, &schema["additionalProperties"]), (Some(0), &json!(false)));
    let (_, shown, kept) = run(&["key", "new"]);
    let secret = shown.trim().rsplit('_').next().unwrap();
    assert!(kept.contains("keys = [\"pl_") && !kept.contains(secret), "{kept}");
}
