//! The example guests: their own cases, as they lie in the repository and freshly built, and what clients see of them.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use support::models::golden_folder;
use support::process::{pilotlight, run};
use support::{Serve, client};
use tempfile::TempDir;

const EXAMPLES: [&str; 6] = ["banned", "cache", "decorate", "json-only", "quota", "redact"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("guest-sdk/examples").join(name)
}

fn passes(manifest: &Path, cases: &Path) {
    let (code, said, errors) = run(pilotlight().args(["guest", "test"]).arg(manifest).arg("--cases").arg(cases));
    assert_eq!(code, Some(0), "{}: {said}{errors}", manifest.display());
}

#[test]
fn examples_pass_their_cases_as_they_are_and_freshly_built() {
    let built = tempfile::tempdir().unwrap();
    for name in EXAMPLES {
        let (folder, out) = (folder(name), built.path().join(format!("{name}.wasm")));
        passes(&folder.join("guest.toml"), &folder.join("cases"));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("guest-sdk/build-guest");
        let (code, _, errors) = run(Command::new(script).arg(&folder).arg(&out));
        if code == Some(69) {
            assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "may not be skipped with CI=true: {errors}");
            return eprintln!("SKIPPED: {errors}");
        }
        assert_eq!(code, Some(0), "{errors}");
        let manifest = built.path().join("guest.toml");
        std::fs::copy(folder.join("guest.toml"), &manifest).unwrap();
        passes(&manifest, &folder.join("cases"));
    }
}

struct Guarded {
    server: Serve,
    folder: TempDir,
}

/// The tiny model sealed with an example.
fn seal(name: &str) -> (TempDir, String) {
    let out = tempfile::tempdir().unwrap();
    let snapshot = out.path().join("m.snapshot");
    let mut command = pilotlight();
    command.arg("seal").arg(golden_folder("llama3-tiny")).arg("-o").arg(&snapshot);
    let (code, _, errors) = run(command.arg("--guest").arg(folder(name).join("guest.toml")));
    assert_eq!(code, Some(0), "{errors}");
    (out, snapshot.display().to_string())
}

fn serve(name: &str) -> Guarded {
    let (folder, snapshot) = seal(name);
    let server = Serve::start(&["--model", &format!("m={snapshot}"), "--idle", "60s"]);
    Guarded { server, folder }
}

fn chat(more: Value) -> Value {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 60, "temperature": 1, "seed": 7});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn every_answer_of_json_only_is_json() {
    let guarded = serve("json-only");
    for seed in 0..5 {
        let answer =
            guarded.server.post("/v1/chat/completions", &chat(json!({"seed": seed, "max_tokens": 200}))).json();
        let content = answer["choices"][0]["message"]["content"].as_str().unwrap();
        let content: Value = serde_json::from_str(content).unwrap_or_else(|error| panic!("{error}: {content}"));
        assert!(content["answer"].is_string(), "{content}");
    }
    let refused = guarded.server.post("/v1/chat/completions", &chat(json!({"guided_regex": "x"})));
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (400, Some("json_only")));
}

#[test]
fn banned_tokens_are_never_said() {
    let guarded = serve("banned");
    for seed in 0..8 {
        let more = json!({"seed": seed, "max_tokens": 100, "logprobs": true, "return_tokens_as_token_ids": true, "logit_bias": {"11": 9, "13": 9, "17": 9}});
        let answer = guarded.server.post("/v1/chat/completions", &chat(more)).json();
        let tokens: Vec<_> = answer["choices"][0]["logprobs"]["content"]
            .as_array()
            .unwrap()
            .iter()
            .map(|token| token["token"].clone())
            .collect();
        assert!(tokens.contains(&json!("token_id:17")), "what is likely comes: {tokens:?}");
        assert!(!tokens.contains(&json!("token_id:11")) && !tokens.contains(&json!("token_id:13")), "{tokens:?}");
    }
}

#[test]
fn what_is_remembered_of_somebody_comes_before_their_chats() {
    let guarded = serve("decorate");
    let prompt = |more: Value| {
        guarded.server.post("/v1/chat/completions", &chat(more)).json()["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let plain = prompt(json!({}));
    let told = json!([{"role": "system", "content": "remember xyzzy ada: Ada likes lighthouses."}, {"role": "user", "content": "hi"}]);
    assert_eq!(prompt(json!({"messages": told})), plain, "it is taken out");
    assert!(prompt(json!({"user": "ada"})) > plain);
    assert_eq!(prompt(json!({"user": "bob"})), plain);
}

#[test]
fn one_request_more_than_a_quota_is_429_for_who_made_it_alone() {
    let guarded = serve("quota");
    let status = |user: &str| guarded.server.post("/v1/chat/completions", &chat(json!({"user": user}))).status;
    assert_eq!([status("ada"), status("ada"), status("bob")], [200, 429, 200]);
}

/// The text of an answer, and how many tokens were generated for it.
fn answer(response: &client::Response) -> (String, u64) {
    let answer = response.json();
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
    assert!(answer["usage"]["completion_tokens"].as_u64().unwrap() > 0, "whoever said it");
    (text, answer["timings"]["predicted_n"].as_u64().unwrap())
}

/// A chat whose answer ends by itself: what is cut is not kept.
fn short(more: Value) -> Value {
    let mut body = chat(more);
    body["guided_regex"] = json!("[a-z]{8}");
    body
}

#[test]
fn an_answer_that_was_given_is_given_again_without_the_model_and_to_no_other_tenant() {
    let (out, snapshot) = seal("cache");
    let key = || {
        let (_, said, _) = run(pilotlight().args(["key", "new", "--json"]));
        let key: Value = serde_json::from_str(&said).unwrap();
        (key["key"].as_str().unwrap().to_owned(), key["hash"].as_str().unwrap().to_owned())
    };
    let (a, b) = (key(), key());
    let config = out.path().join("pilotlight.toml");
    let tenant = |name: &str, hash: &str| format!("[tenants.{name}]\nkeys = [\"{hash}\"]\n");
    let text =
        format!("[models.m]\nsnapshot = \"{snapshot}\"\nidle = \"60s\"\n{}{}", tenant("a", &a.1), tenant("b", &b.1));
    std::fs::write(&config, text).unwrap();
    let server = Serve::start(&["--config", config.to_str().unwrap()]);
    let ask = |key: &str, more: Value| {
        let (bearer, body) = (format!("Bearer {key}"), short(more).to_string());
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        answer(&client::request(server.api, "POST", "/v1/chat/completions", &headers, body.as_bytes()).unwrap())
    };
    let (text, tokens) = ask(&a.0, json!({}));
    assert!(tokens > 0);
    assert_eq!(ask(&a.0, json!({})), (text.clone(), 0), "from what the guest has kept");
    assert_eq!(ask(&b.0, json!({})), (text, tokens), "another tenant's guest sees nothing of it");
    assert!(ask(&a.0, json!({"seed": 8})).1 > 0, "another request");
    // A guest's answer goes the way of any other: all choices, and stop strings.
    let several = short(json!({"n": 3}));
    let (bearer, body) = (format!("Bearer {}", a.0), several.to_string());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let answer = client::request(server.api, "POST", "/v1/chat/completions", &headers, body.as_bytes()).unwrap().json();
    assert_eq!((answer["choices"].as_array().unwrap().len(), &answer["timings"]["predicted_n"]), (3, &json!(0)));
    let tools = json!({"tools": [{"type": "function", "function": {"name": "f"}}]});
    let refused =
        client::request(server.api, "POST", "/v1/chat/completions", &headers, chat(tools).to_string().as_bytes())
            .unwrap();
    assert_eq!(
        (refused.status, refused.json()["error"]["param"].as_str()),
        (400, Some("tools")),
        "its guest would not see calls"
    );
}

#[test]
fn what_a_guest_keeps_is_gone_with_its_runtime() {
    let guarded = serve("cache");
    let ask = || answer(&guarded.server.post("/v1/chat/completions", &short(json!({}))));
    let (text, tokens) = ask();
    assert_eq!(ask(), (text.clone(), 0));
    let pid = guarded.server.slot("m")["replicas"][0]["pid"].as_i64().unwrap();
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    guarded.server.until_slot("m", "cold");
    assert_eq!(ask(), (text, tokens), "computed again, to the same");
    drop(guarded.folder);
}
