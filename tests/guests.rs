//! Guests through the whole of it: sealed with a model, and seen by clients in what they get.
//!
//! The model's weights are random. What it is to say is given as a form, so that it says it in tokens of many kinds, cut anywhere.
#![allow(clippy::unwrap_used)]

mod support;
#[path = "../guests/tests/support/mod.rs"]
mod wasm;

use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use support::models::golden_folder;
use support::process::{pilotlight, run};
use support::server::JSON;
use support::{Serve, client};
use tempfile::TempDir;
use wasm::{PASS, text_guest};

/// (what the model says, what a client may see)
const SECRETS: [(&str, &str); 4] = [
    ("Write to ada.lovelace@example.co.uk today.", "Write to [email] today."),
    ("Card 4111 1111 1111 1111, code 123.", "Card [number], code 123."),
    ("bob@x.com-4111111111111111", "[email]-[number]"),
    ("Not one: a@b, 123456789012, user@host.x", "Not one: a@b, 123456789012, user@host.x"),
];

/// A component, and what its manifest says beside that.
type Guest<'a> = (&'a [u8], &'a str);

/// A folder with a model sealed with these guests, and its snapshot.
fn seal(guests: &[Guest<'_>]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("guarded.snapshot");
    let mut command = pilotlight();
    command.arg("seal").arg(golden_folder("llama3-tiny")).arg("-o").arg(&out);
    for (i, (component, manifest)) in guests.iter().enumerate() {
        let file = |ending: &str| folder.path().join(format!("g{i}.{ending}"));
        std::fs::write(file("wasm"), component).unwrap();
        std::fs::write(file("toml"), format!("component = \"g{i}.wasm\"\n{manifest}")).unwrap();
        command.arg("--guest").arg(file("toml"));
    }
    let (code, _, errors) = run(&mut command);
    assert_eq!(code, Some(0), "{errors}");
    (folder, out)
}

struct Guarded {
    server: Serve,
    _folder: TempDir,
}

fn serve(guests: &[Guest<'_>]) -> Guarded {
    let (folder, snapshot) = seal(guests);
    let server = Serve::start(&["--model", &format!("g={}", snapshot.display()), "--idle", "60s"]);
    Guarded { server, _folder: folder }
}

/// A request whose answer can only be this text, in tokens that depend on the seed.
fn says(text: &str, seed: u64, stream: bool) -> Value {
    let literal: String =
        text.chars().flat_map(|c| if c.is_alphanumeric() || c == ' ' { vec![c] } else { vec!['\\', c] }).collect();
    json!({"model": "g", "prompt": [5, 9, 12], "max_tokens": 200, "seed": seed, "temperature": 2, "stream": stream, "guided_regex": literal})
}

/// What a client sees of a completion: its text, why it ended, and a stream's error.
fn ask(server: &Serve, body: &Value) -> (String, Value, Option<Value>) {
    if body["stream"] != true {
        let answer = server.post("/v1/completions", body).json();
        let choice = &answer["choices"][0];
        let error = answer.get("error").cloned();
        return (choice["text"].as_str().unwrap_or_default().to_owned(), choice["finish_reason"].clone(), error);
    }
    let mut events = client::open(server.api, "POST", "/v1/completions", JSON, body.to_string().as_bytes()).unwrap();
    let (mut text, mut finish, mut error) = (String::new(), Value::Null, None);
    while let Some(data) = events.event().unwrap() {
        let Ok(event) = serde_json::from_str::<Value>(&data) else { continue };
        text += event["choices"][0]["text"].as_str().unwrap_or_default();
        finish = match &event["choices"][0]["finish_reason"] {
            Value::Null => finish,
            reason => reason.clone(),
        };
        error = event.get("error").cloned().or(error);
    }
    (text, finish, error)
}

#[test]
fn a_redaction_guest_leaks_nothing_whatever_tokens_a_secret_is_said_in() {
    let guarded = serve(&[(&wasm::redact(), "")]);
    for (said, seen) in SECRETS {
        for seed in 0..12 {
            for stream in [false, true] {
                let (text, finish, error) = ask(&guarded.server, &says(said, seed, stream));
                assert_eq!(
                    (text.as_str(), &finish, error),
                    (seen, &json!("stop"), None),
                    "seed {seed}, stream {stream}"
                );
            }
        }
    }
    let mut several = says(SECRETS[0].0, 1, false);
    several["n"] = 3.into();
    let answer = guarded.server.post("/v1/completions", &several).json();
    let texts: Vec<_> = answer["choices"].as_array().unwrap().iter().map(|choice| choice["text"].clone()).collect();
    assert_eq!(texts, vec![json!(SECRETS[0].1); 3], "each choice has a guest of its own");
    for (field, value) in [("logprobs", json!(1)), ("echo", json!(true))] {
        let mut body = says("x", 1, false);
        body[field] = value;
        let refused = guarded.server.post("/v1/completions", &body);
        assert_eq!((refused.status, refused.json()["error"]["param"].as_str()), (400, Some(field)));
    }
}

/// A secret, and what is seen of it.
fn secret() -> impl Strategy<Value = (String, &'static str)> {
    let email = "[a-z0-9]{1,8}([._%+-][a-z0-9]{1,4})?@([a-z]{1,5}\\.){1,2}[a-z]{2,4}";
    let number = "[0-9]{4}[ -]?[0-9]{5}[ -]?[0-9]{4,10}";
    prop_oneof![email.prop_map(|secret| (secret, "[email]")), number.prop_map(|secret| (secret, "[number]"))]
}

#[test]
fn no_secret_is_leaked_whatever_it_is_and_wherever_it_stands() {
    let guarded = serve(&[(&wasm::redact(), "")]);
    let words = || "([a-zA-ZéßЖ]{1,6}[ ,.!]{1,2}){0,3} ";
    let case = (words(), secret(), " ([a-z]{1,6} ){0,2}", secret(), "[.!]?", 0u64..1000, any::<bool>());
    let config = ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() };
    proptest::test_runner::TestRunner::new(config)
        .run(&case, |(before, (one, seen), between, (other, also_seen), after, seed, stream)| {
            let said = format!("{before}{one}{between}and {other}{after}");
            let expected = format!("{before}{seen}{between}and {also_seen}{after}");
            let (text, finish, error) = ask(&guarded.server, &says(&said, seed, stream));
            prop_assert_eq!((text, finish, error), (expected, json!("stop"), None), "said {:?}", said);
            Ok(())
        })
        .unwrap();
}

/// Tokens of a text, as the model's tokenizer has it.
fn tokens_of(server: &Serve, text: &str) -> u64 {
    let body = json!({"model": "g", "prompt": text, "add_special_tokens": false});
    server.post("/tokenize", &body).json()["count"].as_u64().unwrap()
}

#[test]
fn usage_counts_what_the_client_gets() {
    let guarded = serve(&[(&wasm::redact(), "")]);
    let usage = |mut body: Value| {
        if body["stream"] != true {
            let answer = guarded.server.post("/v1/completions", &body).json();
            return answer["usage"]["completion_tokens"].as_u64().unwrap();
        }
        body["stream_options"] = json!({"include_usage": true});
        let mut events =
            client::open(guarded.server.api, "POST", "/v1/completions", JSON, body.to_string().as_bytes()).unwrap();
        let mut last = 0;
        while let Some(data) = events.event().unwrap() {
            let Ok(event) = serde_json::from_str::<Value>(&data) else { continue };
            last = event["usage"]["completion_tokens"].as_u64().unwrap_or(last);
        }
        last
    };
    let (secret, seen) = SECRETS[0];
    let mut stopped = says(secret, 3, false);
    stopped["stop"] = json!(["[email]"]);
    for seed in 0..3 {
        for stream in [false, true] {
            assert_eq!(
                usage(says(secret, seed, stream)),
                tokens_of(&guarded.server, seen),
                "seed {seed}, stream {stream}"
            );
            // Of what was left as it was, the tokens that the model chose, and the end.
            assert!(usage(says("nothing secret", seed, stream)) > tokens_of(&guarded.server, "nothing secret"));
        }
    }
    assert_eq!(usage(stopped), tokens_of(&guarded.server, "Write to "));
}

#[test]
fn stop_strings_are_looked_for_in_what_guests_made_of_the_text() {
    let guarded = serve(&[(&wasm::redact(), "")]);
    let mut body = says("Write to ada.lovelace@example.co.uk today.", 3, false);
    body["stop"] = json!(["[email]"]);
    assert_eq!(ask(&guarded.server, &body).0, "Write to ");
    body["stop"] = json!(["lovelace"]);
    assert_eq!(ask(&guarded.server, &body).0, "Write to [email] today.");
}

#[test]
fn what_becomes_of_a_request_whose_guest_fails_is_as_its_plug_in_says() {
    // Passes two windows on, and traps at the third.
    let traps = wasm::text_guest_with(
        "(global $n (mut i32) (i32.const 0))",
        &format!(
            "(global.set $n (i32.add (global.get $n) (i32.const 1))) (if (i32.gt_u (global.get $n) (i32.const 2)) (then (unreachable))) {PASS}"
        ),
    );
    let said = "one two three four five";
    let closed = serve(&[(&traps, "")]);
    let refused = closed.server.post("/v1/completions", &says(said, 1, false));
    let error = refused.json()["error"].clone();
    assert_eq!(
        (refused.status, error["code"].as_str(), error["type"].as_str()),
        (502, Some("guest_failed"), Some("guest_error"))
    );
    assert!(error["message"].as_str().unwrap().contains("'g0' trapped"), "{error}");
    let (text, _, error) = ask(&closed.server, &says(said, 1, true));
    assert!(said.starts_with(&text) && text.len() < said.len(), "{text}");
    assert_eq!(error.unwrap()["code"], "guest_failed");
    let open = serve(&[(&traps, "on_failure = \"open\"")]);
    for stream in [false, true] {
        assert_eq!(ask(&open.server, &says(said, 1, stream)).0, said);
    }
    let slow = serve(&[(&text_guest("(loop $l (br $l)) (unreachable)"), "budgets = { text_ms = 5 }")]);
    let refused = slow.server.post("/v1/completions", &says(said, 1, false));
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (504, Some("guest_timeout")));
    assert_eq!(slow.server.slot("g")["state"], "ready", "the runtime lives");
}

#[test]
fn a_guests_refusal_is_the_clients_status_and_its_stop_ends_the_generation() {
    let rejects = serve(&[(&text_guest("(call $reject (i32.const 451))"), "")]);
    let refused = rejects.server.post("/v1/completions", &says("anything", 1, false));
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (451, Some("nope")));
    let stops = serve(&[(&text_guest("(call $answer (local.get $len) (i32.const 1) (i32.const 1))"), "")]);
    for stream in [false, true] {
        let (text, finish, _) = ask(&stops.server, &says("a long text that is cut", 1, stream));
        assert_eq!((text.as_str(), &finish), ("<!>", &json!("stop")), "stream {stream}");
    }
}

#[test]
fn guests_see_text_in_their_stated_order() {
    // One says `<!>` for whatever comes, and the other refuses what has three bytes, as that.
    let shouts = text_guest("(call $answer (local.get $len) (i32.ne (local.get $len) (i32.const 0)) (i32.const 0))");
    let refuses =
        format!("(if (i32.eq (local.get $len) (i32.const 3)) (then (return (call $reject (i32.const 451))))) {PASS}");
    let refuses = text_guest(&refuses);
    let ask = |guests: &[Guest<'_>]| ask(&serve(guests).server, &says("7", 1, false));
    let (text, _, error) = ask(&[(&refuses, ""), (&shouts, "")]);
    assert_eq!((text.as_str(), error), ("<!>", None));
    let (_, _, error) = ask(&[(&shouts, ""), (&refuses, "")]);
    assert_eq!(error.unwrap()["code"], "nope");
}

/// A text in which every third word is a secret, of some hundred tokens; and what a client may see of it.
fn long() -> (String, String) {
    let (said, seen): (Vec<_>, Vec<_>) = SECRETS.iter().cycle().take(12).map(|(said, seen)| (*said, *seen)).unzip();
    (said.join(" and "), seen.join(" and "))
}

/// A stream of that text whose runtime is killed in the middle.
fn lose_the_runtime(server: &Serve, body: &Value) -> (String, Option<Value>) {
    let mut events = client::open(server.api, "POST", "/v1/completions", JSON, body.to_string().as_bytes()).unwrap();
    let (mut text, mut error, mut killed) = (String::new(), None, false);
    while let Some(data) = events.event().unwrap() {
        let Ok(event) = serde_json::from_str::<Value>(&data) else { continue };
        text += event["choices"][0]["text"].as_str().unwrap_or_default();
        error = event.get("error").cloned().or(error);
        if text.len() > 40 && !killed {
            killed = true;
            let pid = server.slot("g")["replicas"][0]["pid"].as_i64().unwrap();
            let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
    }
    assert!(killed);
    (text, error)
}

#[test]
fn a_stream_that_loses_its_runtime_goes_on_where_its_guests_can_see_it_again() {
    // So slow that the stream is still under way when its runtime is killed.
    let slow = wasm::text_guest_with(
        "(global $i (mut i32) (i32.const 0))",
        &format!(
            "(global.set $i (i32.const 2000000)) (loop $l (global.set $i (i32.sub (global.get $i) (i32.const 1))) (br_if $l (global.get $i))) {PASS}"
        ),
    );
    let manifest = "replayable = true\nbudgets = { text_ms = 1000 }";
    let (said, seen) = long();
    let mut body = says(&said, 1, true);
    body["max_tokens"] = 480.into();
    let replayable = serve(&[(&wasm::redact(), "replayable = true"), (&slow, manifest)]);
    assert_eq!(lose_the_runtime(&replayable.server, &body), (seen.clone(), None), "bit for bit");
    let died = "requests_lost_total{model=\"g\",outcome=\"died\"}";
    assert_eq!(replayable.server.metric(died), 1);
    let once = serve(&[(&wasm::redact(), ""), (&slow, manifest)]);
    let (text, error) = lose_the_runtime(&once.server, &body);
    assert!(seen.starts_with(&text) && text.len() < seen.len(), "{text}");
    assert!(error.is_some(), "nobody can say what its guest would have said");
}

/// The ids of an answer's tokens, of a model whose guests say what they may be.
fn tokens(server: &Serve, seed: u64, more: Value) -> (Vec<u32>, Value) {
    let mut body = json!({"model": "g", "prompt": [5, 9, 12], "max_tokens": 12, "seed": seed, "temperature": 2, "ignore_eos": true,
        "logprobs": 0, "return_tokens_as_token_ids": true});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = server.post("/v1/completions", &body).json();
    let ids = answer["choices"][0]["logprobs"]["tokens"].as_array().into_iter().flatten();
    let id = |token: &Value| token.as_str().unwrap().strip_prefix("token_id:").unwrap().parse().unwrap();
    (ids.map(id).collect(), answer)
}

#[test]
fn a_token_guest_bans_favours_forces_and_ends_and_nobody_elses_tokens_change() {
    let plain = Serve::start(&[
        "--model",
        &format!("g={}", support::golden("llama3-tiny", "native").display()),
        "--idle",
        "60s",
    ]);
    let free = serve(&[(&wasm::token_guest(wasm::FREE, wasm::FREE), "")]);
    let mask = wasm::mask_of_words(320, 2);
    let masked = serve(&[(&wasm::token_guest(&mask, &mask), "")]);
    for seed in 0..4 {
        let (expected, _) = tokens(&plain, seed, json!({}));
        assert_eq!(tokens(&free.server, seed, json!({})).0, expected, "who says nothing changes nothing");
        let (ids, answer) = tokens(&masked.server, seed, json!({}));
        assert!(ids.len() == 12 && ids.iter().all(|id| (320..384).contains(id)), "{ids:?} {answer}");
        let alone = ids;
        let others: Vec<_> = std::thread::scope(|scope| {
            let ask = || scope.spawn(|| tokens(&masked.server, seed, json!({})).0);
            (0..6).map(|_| ask()).collect::<Vec<_>>().into_iter().map(|asked| asked.join().unwrap()).collect()
        });
        assert!(others.iter().all(|ids| *ids == alone), "the same alone and among others");
    }
    // 100 for token 77.
    let bias = "(i32.store (i32.const 4096) (i32.const 77)) (f32.store (i32.const 4100) (f32.const 100)) (call $say (i32.const 1) (i32.const 4096) (i32.const 1))";
    let biased = serve(&[(&wasm::token_guest(bias, wasm::FREE), "")]);
    let (ids, _) = tokens(&biased.server, 1, json!({}));
    assert!(ids[0] == 77 && ids[1..].iter().any(|id| *id != 77), "{ids:?}");
    // 5, 6, 7, then what comes; the end once somebody has been told of that.
    let force = "(i32.store (i32.const 4096) (i32.const 5)) (i32.store (i32.const 4100) (i32.const 6)) (i32.store (i32.const 4104) (i32.const 7))
        (call $say (i32.const 3) (i32.const 4096) (i32.const 3))";
    let stop = "(if (result i32) (i32.eq (local.get $len) (i32.const 3)) (then (call $say (i32.const 0) (i32.const 0) (i32.const 0)))
        (else (call $say (i32.const 4) (i32.const 0) (i32.const 0))))";
    let forced = serve(&[(&wasm::token_guest(force, stop), "")]);
    let (ids, answer) = tokens(&forced.server, 1, json!({}));
    assert!(ids.len() == 4 && ids[..3] == [5, 6, 7], "{ids:?}");
    assert_eq!(
        (&answer["choices"][0]["finish_reason"], &answer["usage"]["completion_tokens"]),
        (&json!("stop"), &json!(4))
    );
}

#[test]
fn a_token_guest_and_a_form_are_both_followed_or_told_that_they_cannot_be() {
    let mask = wasm::mask_of_words(0, 1024);
    let all = serve(&[(&wasm::token_guest(&mask, &mask), "")]);
    let (_, answer) = tokens(&all.server, 1, json!({"guided_regex": "[ab]{4}"}));
    assert_eq!(answer["choices"][0]["text"].as_str().unwrap().trim_matches(['a', 'b']), "");
    let none = "(i32.store (i32.const 4096) (i32.const 500)) (call $say (i32.const 3) (i32.const 4096) (i32.const 1))";
    let other = serve(&[(&wasm::token_guest(none, none), "")]);
    let (_, answer) = tokens(&other.server, 1, json!({"guided_regex": "[0-9]{4}"}));
    assert!(answer["error"]["message"].as_str().unwrap().contains("allow no token together"), "{answer}");
}

#[test]
fn a_token_guest_that_fails_fails_its_own_request_alone() {
    let slow = serve(&[(&wasm::token_guest("(loop $l (br $l)) (unreachable)", wasm::FREE), "")]);
    let (_, answer) = tokens(&slow.server, 1, json!({}));
    assert_eq!(answer["error"]["code"], "guest_timeout", "{answer}");
    let short =
        serve(&[(&wasm::token_guest(wasm::FREE, "(call $say (i32.const 2) (i32.const 4096) (i32.const 1))"), "")]);
    let (_, answer) = tokens(&short.server, 1, json!({}));
    assert!(answer["error"]["message"].as_str().unwrap().contains("a mask of 1 words where"), "{answer}");
    let open = serve(&[(&wasm::token_guest(wasm::FREE, "(unreachable)"), "on_failure = \"open\"")]);
    assert_eq!(tokens(&open.server, 1, json!({})).0.len(), 12);
    assert_eq!(slow.server.slot("g")["state"], "ready");
}

#[test]
fn what_cannot_be_a_guest_is_refused_when_it_is_sealed() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, bytes: &[u8], manifest: Option<&str>| {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).unwrap();
        let given = manifest.map_or(file, |manifest| {
            let file = folder.path().join("m.toml");
            std::fs::write(&file, manifest).unwrap();
            file
        });
        let mut command = pilotlight();
        command.arg("seal").arg(golden_folder("llama3-tiny")).arg("-o").arg(folder.path().join("out.snapshot"));
        let (code, _, errors) = run(command.arg("--guest").arg(given));
        assert!(!Path::new(&folder.path().join("out.snapshot")).exists());
        (code, errors)
    };
    let (code, said) = refused("no.wasm", b"no component", None);
    assert_eq!(code, Some(64));
    assert!(said.contains("the guest 'no'") && said.contains("WebAssembly component"), "{said}");
    let wants = wat::parse_str(r#"(component (import "inference:guest/state@0.1.0" (instance)))"#).unwrap();
    let (code, said) = refused("wants.wasm", &wants, None);
    assert_eq!(code, Some(64));
    assert!(said.contains("grant 'state' to allow it"), "{said}");
    let (code, said) = refused("x.wasm", &wants, Some("component = \"x.wasm\"\ngrants = [\"files\"]"));
    assert_eq!(code, Some(64));
    assert!(said.contains("files"), "{said}");
}
