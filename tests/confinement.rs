//! Runtimes that have given up what an answer does not need, seen from outside: the kernel says so of every thread. What they then cannot do
//! is tried from inside in `runtime/src/confine/tests.rs`.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt, path::Path};
use support::models::golden_folder;
use support::process::{children, run};
use support::{Serve, golden, pilotlight};
use tempfile::TempDir;

/// Serves the tiny model, logging all that is said.
fn serve(arguments: &[&str]) -> Serve {
    serve_file(&golden("llama3-tiny", "f32"), arguments)
}

fn serve_file(snapshot: &Path, arguments: &[&str]) -> Serve {
    let mut command = pilotlight();
    command.env("PILOTLIGHT_LOG", "info,runtime=debug").args(["serve", "--listen", "127.0.0.1:0", "--admin"]);
    command.args(["127.0.0.1:0", "--idle", "60s", "--model", &format!("tiny={}", snapshot.display())]).args(arguments);
    Serve::spawn(command)
}

/// A chat of two full blocks; the only runtime's process, which has answered it.
fn chat(server: &Serve) -> u32 {
    let content = "How are you? ".repeat(30);
    let body = json!({"model": "tiny", "max_tokens": 8, "temperature": 0, "ignore_eos": true,
        "messages": [{"role": "user", "content": content}]});
    let answer = server.post("/v1/chat/completions", &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["usage"]["completion_tokens"], 8);
    let runtimes = children(server.id());
    assert_eq!(runtimes.len(), 1, "{runtimes:?}");
    runtimes[0]
}

/// A line of `/proc/PID/task/*/status`, of each thread.
fn of_threads(runtime: u32, key: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{runtime}/task")).unwrap();
    let status = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok());
    status.map(|text| text.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned()).collect()
}

fn limit(runtime: u32, name: &str) -> Vec<String> {
    let limits = fs::read_to_string(format!("/proc/{runtime}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().take(2).map(str::to_owned).collect()
}

fn assert_confined(runtime: u32) {
    for (key, value) in [("NoNewPrivs:", "1"), ("Seccomp:", "2")] {
        let values = of_threads(runtime, key);
        assert!(values.len() > 2 && values.iter().all(|found| found == value), "{key} {values:?}");
    }
    assert_eq!(limit(runtime, "Max core file size"), ["0", "0"]);
    assert!(limit(runtime, "Max open files").iter().all(|most| most.parse::<u64>().unwrap() <= 1024));
}

/// What `doctor` says of this kernel.
fn doctor() -> Value {
    let (code, out, err) = run(pilotlight().args(["doctor", "--json"]));
    assert_eq!(code, Some(0), "{err}");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn every_thread_of_a_runtime_is_confined_and_it_answers() {
    let server = serve(&[]);
    assert_confined(chat(&server));
    let confinement = doctor()["confinement"].clone();
    assert_eq!(confinement["seccomp"], true, "{confinement}");
    match confinement["landlock_abi"].as_u64() {
        Some(abi) => assert!(server.log().contains(&format!(r#""landlock":{abi}"#)), "{}", server.log()),
        None => eprintln!("SKIPPED: Landlock in a runtime: this kernel has none"),
    }
}

#[test]
fn a_standby_is_confined_before_it_has_a_model_and_keeps_keys_and_values_in_its_folder() {
    let folder = TempDir::new().unwrap();
    let kv = folder.path().join("kv");
    let server = serve(&["--standby", "1", "--kv-dir", kv.to_str().unwrap()]);
    let standby = support::until("a standby that is confined", || {
        let standby = children(server.id()).first().copied()?;
        of_threads(standby, "Seccomp:").first().filter(|mode| *mode == "2").map(|_| standby)
    });
    assert_eq!(limit(standby, "Max core file size"), ["0", "0"]);
    let body = json!({"model": "tiny", "prompt": (0..100).collect::<Vec<u32>>(), "max_tokens": 4, "temperature": 0,
        "ignore_eos": true});
    let answer = server.post("/v1/completions", &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_confined(standby);
    let blocks = support::until("blocks on disk", || {
        let mut files = fs::read_dir(&kv).unwrap().map(|entry| entry.unwrap().path());
        let found = files.find(|path| path.extension().is_some_and(|extension| extension == "blocks"))?;
        fs::metadata(found).ok().filter(|file| file.len() > 0)
    });
    assert!(blocks.is_file());
    assert!(!server.log().contains("cannot be written") && !server.log().contains("none are kept"), "{}", server.log());
}

#[test]
fn a_key_program_is_asked_before_the_runtime_is_confined() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.path().join(name);
    // Keeps the key in the clear, which is enough for a test.
    fs::write(at("service"), "#!/bin/sh\nexec cat\n").unwrap();
    fs::set_permissions(at("service"), fs::Permissions::from_mode(0o700)).unwrap();
    let key = format!("command:{}", at("service").display());
    let mut seal = pilotlight();
    seal.arg("seal").arg(golden_folder("llama3-tiny")).arg("-o").arg(at("m.snapshot")).args(["--encrypt-key", &key]);
    let (code, _, log) = run(&mut seal);
    assert_eq!(code, Some(0), "{log}");
    let server = serve_file(&at("m.snapshot"), &["--decrypt-key", &key]);
    assert_confined(chat(&server));
    assert!(server.log().contains(r#""files_refused":true"#), "{}", server.log());
}

#[test]
fn no_confine_leaves_a_runtime_as_its_user_is() {
    let server = serve(&["--no-confine"]);
    let runtime = chat(&server);
    for key in ["NoNewPrivs:", "Seccomp:"] {
        let own = &of_threads(server.id(), key)[0];
        assert!(of_threads(runtime, key).iter().all(|found| found == own), "{key}");
    }
}

#[test]
fn doctor_says_how_far_this_kernel_confines_runtimes() {
    let (code, out, err) = run(pilotlight().arg("doctor"));
    assert_eq!(code, Some(0), "{err}");
    let line = out.lines().find(|line| line.starts_with("confinement")).unwrap();
    assert!(line.contains("seccomp yes") && line.contains("Landlock"), "{line}");
    let report = doctor();
    let named = report["missing"].to_string().contains("Landlock");
    assert_eq!(
        report["confinement"]["landlock_abi"].is_null(),
        named,
        "what is missing is named, and only that: {report}"
    );
}
