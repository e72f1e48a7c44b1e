//! Many clients at once on a cold model, and clients that leave.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use support::client::{self, open, send};
use support::server::JSON;
use support::{Serve, golden, process, smollm2, until};

const CLIENTS: usize = 64;

#[test]
fn sixty_four_clients_of_a_cold_model_get_whole_answers_from_one_restore() {
    let server = tiny(&["--idle", "30s"]);
    let done = AtomicBool::new(false);
    let (answers, runtimes) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !done.load(Ordering::Acquire) {
                seen.extend(process::children(server.id()));
                std::thread::yield_now();
            }
            seen
        });
        let (server, ask) = (&server, &ask);
        let asked: Vec<_> =
            (0..CLIENTS).map(|i| scope.spawn(move || server.post("/v1/completions", &ask(i)).json())).collect();
        let answers: Vec<Value> = asked.into_iter().map(|client| client.join().unwrap()).collect();
        done.store(true, Ordering::Release);
        (answers, watch.join().unwrap())
    });
    assert_eq!(runtimes.len(), 1, "one runtime process ever seen: {runtimes:?}");
    for answer in &answers {
        assert_eq!(answer["usage"]["completion_tokens"], 8, "{answer}");
        assert_eq!(answer["choices"][0]["finish_reason"], "length", "{answer}");
    }
    let slot = server.slot("tiny");
    assert_eq!(slot["replicas"].as_array().map(Vec::len), Some(1), "{slot}");
}

#[test]
fn an_answer_among_many_is_the_answer_alone() {
    let server = tiny(&["--idle", "30s"]);
    let alone = server.post("/v1/completions", &ask(3)).json();
    let crowd: Vec<Value> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..16)
            .map(|i| {
                scope.spawn({
                    let server = &server;
                    move || server.post("/v1/completions", &ask(i)).json()
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert_eq!(crowd[3]["choices"][0]["logprobs"], alone["choices"][0]["logprobs"]);
}

#[test]
fn a_client_that_leaves_while_held_costs_nothing_afterwards() {
    let server = tiny(&["--idle", "200ms"]);
    let body = ask(0).to_string();
    for _ in 0..20 {
        drop(send(server.api, "POST", "/v1/completions", JSON, body.as_bytes()).unwrap());
    }
    until("nothing held or in flight", || {
        let slot = server.slot("tiny");
        (slot["held"] == 0 && slot["in_flight"] == 0).then_some(())
    });
    server.until_slot("tiny", "cold");
    assert!(process::children(server.id()).is_empty(), "no process is left");
    assert_eq!(server.post("/v1/completions", &ask(1)).status, 200, "and the next is served");
}

#[test]
fn a_client_that_leaves_mid_stream_frees_its_sequence() {
    let Some(snapshot) = smollm2() else { return };
    let server = Serve::start(&["--model", &format!("smollm2={}", snapshot.display()), "--idle", "1h"]);
    let endless = json!({"model": "smollm2", "prompt": "Once upon a time", "ignore_eos": true, "max_tokens": 8000,
        "stream": true});
    let endless = endless.to_string();
    let mut stream = open(server.api, "POST", "/v1/completions", JSON, endless.as_bytes()).unwrap();
    for _ in 0..5 {
        assert!(stream.event().unwrap().is_some(), "tokens arrive");
    }
    let (running, used) =
        ("sequences{model=\"smollm2\",state=\"running\"}", "kv_blocks{model=\"smollm2\",state=\"used\"}");
    until("the engine says that it runs", || (server.metric(running) == 1 && server.metric(used) > 0).then_some(()));
    drop(stream);
    // The engine itself must say that nothing runs, while it still lives.
    until("nothing runs", || (server.metric(running) == 0 && server.metric(used) == 0).then_some(()));
    assert_eq!(server.slot("smollm2")["state"], "ready");
    let next = server.post("/v1/completions", &json!({"model": "smollm2", "prompt": "Once", "max_tokens": 2}));
    assert_eq!(next.status, 200, "{}", next.text());
}

#[test]
fn over_the_hold_limit_is_429_with_retry_after() {
    let server = tiny(&["--hold-max", "1"]);
    let statuses: Vec<(u16, bool)> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..16)
            .map(|i| {
                let (api, body) = (server.api, ask(i).to_string());
                scope.spawn(move || {
                    let answer = client::request(api, "POST", "/v1/completions", JSON, body.as_bytes()).unwrap();
                    (answer.status, answer.header("retry-after").is_some())
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    assert!(statuses.iter().any(|(status, _)| *status == 200), "{statuses:?}");
    assert!(statuses.iter().all(|s| s.0 == 200 || *s == (429, true)), "{statuses:?}");
}

fn tiny(arguments: &[&str]) -> Serve {
    let model = format!("tiny={}", golden("llama3-tiny", "f32").display());
    Serve::start(&[&["--model", &model], arguments].concat())
}

/// Prompts of different lengths, so that batches are ragged.
fn ask(i: usize) -> Value {
    let prompt: Vec<usize> = (0..5 + i % 40).map(|p| (i * 31 + p * 17) % 700 + 10).collect();
    json!({"model": "tiny", "prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": true, "logprobs": 1,
        "return_tokens_as_token_ids": true})
}
