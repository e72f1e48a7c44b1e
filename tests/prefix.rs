//! A beginning that was computed when the model was sealed: the first answer after zero does not compute it again, and is the same.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use support::models::golden_folder;
use support::process::run;
use support::{Serve, pilotlight, until};
use tempfile::TempDir;

const SYSTEM: &str = "You are the keeper of a lighthouse, and you answer whoever asks in one sentence that is true, short and kind, \
    about ships, about storms, about the sea and about the light that is dark until somebody needs it.";

fn seal(folder: &Path, name: &str, prefix: Option<&str>) -> (Option<i32>, PathBuf, String) {
    let out = folder.join(name);
    let mut command = pilotlight();
    command.arg("seal").arg(golden_folder("llama3-tiny")).arg("-o").arg(&out);
    if let Some(prefix) = prefix {
        let file = folder.join("prefix");
        fs::write(&file, prefix).unwrap();
        command.arg("--prefix").arg(file);
    }
    let (code, _, log) = run(&mut command);
    (code, out, log)
}

fn serve(snapshot: &Path) -> Serve {
    Serve::start(&["--model", &format!("m={}", snapshot.display()), "--idle", "60s"])
}

fn ask(server: &Serve, path: &str, mut body: Value) -> Value {
    body["model"] = json!("m");
    body["max_tokens"] = json!(6);
    body["seed"] = json!(3);
    body["logprobs"] = if path.ends_with("chat/completions") { json!(true) } else { json!(2) };
    let answer = server.post(path, &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["choices"].clone()
}

fn reused(server: &Serve, tokens: u64) {
    let metric = || server.metric("prefix_reused_tokens_total{model=\"m\"}");
    until(&format!("{tokens} reused tokens, not {}", metric()), || (metric() == tokens).then_some(()));
}

#[test]
fn text_that_prompts_begin_with_is_there_when_the_model_wakes() {
    let folder = TempDir::new().unwrap();
    let (code, with, log) = seal(folder.path(), "with", Some(SYSTEM));
    assert_eq!(code, Some(0), "{log}");
    let (_, without, _) = seal(folder.path(), "without", None);
    let (with, without) = (serve(&with), serve(&without));
    let tokens = with.post("/tokenize", &json!({"model": "m", "prompt": SYSTEM})).json()["count"].as_u64().unwrap();
    assert!(tokens > 64, "two whole blocks at least, to say something: {tokens}");
    let prompt = |text: &str| json!({"prompt": text});
    let all = format!("{SYSTEM} Who are you?");
    assert_eq!(
        ask(&with, "/v1/completions", prompt(&all)),
        ask(&without, "/v1/completions", prompt(&all)),
        "the same bits of the same tokens"
    );
    reused(&with, tokens);
    reused(&without, 0);
    let other = SYSTEM.replacen("lighthouse", "warehouse", 1);
    assert_eq!(ask(&with, "/v1/completions", prompt(&other)), ask(&without, "/v1/completions", prompt(&other)));
    reused(&with, tokens);
}

#[test]
fn messages_are_rendered_as_those_of_a_chat_are() {
    let folder = TempDir::new().unwrap();
    let system = json!({"role": "system", "content": SYSTEM});
    let (code, with, log) = seal(folder.path(), "with", Some(&json!([system]).to_string()));
    assert_eq!(code, Some(0), "{log}");
    let (_, without, _) = seal(folder.path(), "without", None);
    let (with, without) = (serve(&with), serve(&without));
    let chat = json!({"messages": [system, {"role": "user", "content": "Who are you?"}]});
    let essence = |choices: Value| (choices[0]["message"]["content"].clone(), choices[0]["logprobs"].clone());
    let path = "/v1/chat/completions";
    assert_eq!(essence(ask(&with, path, chat.clone())), essence(ask(&without, path, chat)));
    let rendered = json!({"model": "m", "messages": [system], "add_generation_prompt": false});
    let tokens = with.post("/tokenize", &rendered).json()["count"].as_u64().unwrap();
    reused(&with, tokens);
}

#[test]
fn an_encrypted_snapshot_has_its_prefix_and_nothing_of_it_is_ever_plain_on_the_disk() {
    let folder = TempDir::new().unwrap();
    let (key, out, prefix) = (folder.path().join("key"), folder.path().join("encrypted"), folder.path().join("prefix"));
    fs::write(&key, "17".repeat(32)).unwrap();
    fs::write(&prefix, SYSTEM).unwrap();
    let mut command = pilotlight();
    command.arg("seal").arg(golden_folder("llama3-tiny")).arg("-o").arg(&out);
    let (code, _, log) = run(command.arg("--prefix").arg(&prefix).arg("--encrypt-key").arg(&key));
    assert_eq!(code, Some(0), "{log}");
    let mut left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["encrypted", "encrypted.key", "key", "prefix"]);
    let model = format!("m={}", out.display());
    let encrypted = Serve::start(&["--model", &model, "--idle", "60s", "--decrypt-key", key.to_str().unwrap()]);
    let (_, without, _) = seal(folder.path(), "without", None);
    let without = serve(&without);
    let prompt = json!({"prompt": format!("{SYSTEM} Who are you?")});
    assert_eq!(ask(&encrypted, "/v1/completions", prompt.clone()), ask(&without, "/v1/completions", prompt));
    let tokens =
        encrypted.post("/tokenize", &json!({"model": "m", "prompt": SYSTEM})).json()["count"].as_u64().unwrap();
    reused(&encrypted, tokens);
}

#[test]
fn a_prefix_that_is_corrupt_gives_no_token_and_one_that_cannot_be_is_refused() {
    let folder = TempDir::new().unwrap();
    let (_, file, _) = seal(folder.path(), "with", Some(SYSTEM));
    let snapshot = snapshot::Snapshot::open(&file).unwrap();
    let section = snapshot.sections().iter().find(|section| section.name == "prefix-kv").unwrap().clone();
    let mut bytes = fs::read(&file).unwrap();
    bytes[(section.offset + section.bytes) as usize - 100] ^= 4;
    let bent = folder.path().join("bent");
    fs::write(&bent, bytes).unwrap();
    let answer = serve(&bent).post("/v1/completions", &json!({"model": "m", "prompt": SYSTEM, "max_tokens": 1}));
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.text().contains("prefix-kv"), "{}", answer.text());

    let (code, out, log) = seal(folder.path(), "short", Some("Hello"));
    assert!(code != Some(0) && log.contains("prefix of") && !out.exists(), "{code:?}: {log}");
    let (code, _, log) = seal(folder.path(), "long", Some(&SYSTEM.repeat(40)));
    assert!(code != Some(0) && log.contains("512"), "{code:?}: {log}");
    let (code, out, _) = seal(folder.path(), "again", Some(SYSTEM));
    assert_eq!((code, fs::read(out).unwrap() == fs::read(&file).unwrap()), (Some(0), true), "same input, same bytes");
    let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with('.')), "{left:?}");
}

#[test]
fn kernels_are_compiled_ahead_for_a_gpu_alone_and_by_a_build_that_can() {
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    for (words, code, says) in [
        (&["--kernels", "vulkan"][..], 64, "only those for CUDA"),
        (&["--kernels", "cuda", "--target", "cpu:portable"], 64, "--target cpu:portable is none"),
        // The tests are built without the feature.
        (&["--kernels", "cuda:1"], 69, "build with --features cuda"),
    ] {
        let (found, _, log) =
            run(pilotlight().arg("seal").arg(golden_folder("llama3-tiny")).arg("-o").arg(&out).args(words));
        assert_eq!(found, Some(code), "{words:?}: {log}");
        assert!(log.contains(says), "{words:?}: {log}");
        assert!(fs::read_dir(folder.path()).unwrap().next().is_none(), "{words:?}: nothing is left");
    }
}
