//! A runtime's life under an activator: launched, restored, drained, failed, left alone.
#![allow(clippy::unwrap_used)]

mod support;

use http::{Method, StatusCode};
use http_body_util::BodyExt;
use protocol::control::{FailureKind, FromRuntime, ToRuntime};
use serde_json::{Value, json};
use std::{io::Write, os::unix::fs::PermissionsExt};
use support::{Child, MODEL, cases, code, completion, options, snapshot};

fn long(extra: Value) -> Value {
    completion(&json!([1, 2, 3]), 400, extra)
}

#[tokio::test]
async fn requests_that_come_before_the_model_wait_for_it() {
    let child = Child::launch(options()).await;
    assert_eq!(child.get("/readyz").await.0, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(child.get("/livez").await.0, StatusCode::OK);
    let case = &cases()[0];
    let (answer, timings) = tokio::join!(child.complete(&case["prompt_ids"], 4, json!({})), child.restore(snapshot()));
    assert_eq!(answer["model"], MODEL);
    assert!(timings.total_us >= timings.weights_us && timings.weights_us > 0 && timings.tokenizer_us > 0);
    assert_eq!(child.get("/readyz").await.0, StatusCode::OK);
    let (_, models) = child.get("/v1/models").await;
    assert_eq!(models["data"][0]["id"], MODEL);
}

#[tokio::test]
async fn a_drain_finishes_what_runs_and_exits_with_0() {
    let child = Child::ready().await;
    let body = long(json!({"stream": true})).to_string();
    let mut running = child.send(Method::POST, "/v1/completions", body).await.into_body();
    running.frame().await.unwrap().unwrap();
    child.tell(&ToRuntime::Drain);
    let rest = running.collect().await.unwrap().to_bytes();
    assert!(rest.ends_with(b"data: [DONE]\n\n"));
    assert!(String::from_utf8_lossy(&rest).contains(r#""predicted_n":400"#));
    assert_eq!(child.hear().await, Some(FromRuntime::Drained));
    assert_eq!(child.exit().await, code(0));
}

#[tokio::test]
async fn a_drained_standby_ends_at_once() {
    let child = Child::launch(options()).await;
    child.tell(&ToRuntime::Drain);
    assert_eq!(child.hear().await, Some(FromRuntime::Drained));
    assert_eq!(child.exit().await, code(0));
}

#[tokio::test]
async fn a_runtime_does_not_survive_its_activator() {
    for child in [Child::launch(options()).await, Child::ready().await] {
        // Closes the control socket.
        assert_eq!(child.exit().await, code(0));
    }
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_sequence_and_its_blocks() {
    let child = Child::ready().await;
    for stream in [true, false] {
        let body = long(json!({"stream": stream, "n": 8}));
        let request = child.send(Method::POST, "/v1/completions", body.to_string());
        if stream {
            let mut body = request.await.into_body();
            body.frame().await.unwrap().unwrap();
            while child.stats().await.running < 8 {}
            drop(body);
        } else {
            let running = async { while child.stats().await.running < 8 {} };
            tokio::select! {
                response = request => panic!("{response:?}"),
                () = running => {}
            }
        }
        child.until_idle().await;
    }
}

#[tokio::test]
async fn a_connection_of_its_own_answers_alike_is_left_alike_and_drained_alike() {
    let child = Child::ready().await;
    let request = |body: &Value| {
        let request = http::Request::post("/v1/completions").header("host", "localhost");
        request.body(http_body_util::Full::from(body.to_string())).unwrap()
    };
    let case = &cases()[0];
    let mut connection = child.connect().await;
    for _ in 0..2 {
        let answer = connection.send_request(request(&completion(&case["prompt_ids"], 4, json!({})))).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!(answer["choices"], child.complete(&case["prompt_ids"], 4, json!({})).await["choices"]);
        connection.ready().await.unwrap();
    }
    let streamed = request(&long(json!({"stream": true})));
    let mut left = connection.send_request(streamed.clone()).await.unwrap().into_body();
    left.frame().await.unwrap().unwrap();
    drop((left, connection));
    child.until_idle().await;
    let (mut runs, mut free) = (child.connect().await, child.connect().await);
    let mut running = runs.send_request(streamed.clone()).await.unwrap().into_body();
    running.frame().await.unwrap().unwrap();
    free.ready().await.unwrap();
    child.tell(&ToRuntime::Drain);
    let rest = running.collect().await.unwrap().to_bytes();
    assert!(rest.ends_with(b"data: [DONE]\n\n"));
    assert!(free.send_request(streamed).await.is_err(), "it was closed");
    assert_eq!(child.hear().await, Some(FromRuntime::Drained));
    assert_eq!(child.exit().await, code(0));
}

#[tokio::test]
async fn stats_count_blocks_and_memory() {
    let child = Child::ready().await;
    // The engine tells its numbers at its first turn, which may be just after it is ready.
    while child.stats().await.kv_blocks_total == 0 {}
    let idle = child.stats().await;
    assert_eq!((idle.running, idle.kv_blocks_used), (0, 0));
    assert_eq!(idle.kv_blocks_total, 16 * 512 / kernels::BLOCK_TOKENS as u32);
    assert!(idle.resident_bytes > 1 << 20);
}

/// Flips one byte of a copy of the snapshot.
fn flipped(at: impl Fn(&snapshot::Snapshot) -> u64) -> tempfile::NamedTempFile {
    let mut bytes = std::fs::read(snapshot()).unwrap();
    let at = at(&snapshot::Snapshot::open(snapshot()).unwrap()) as usize;
    bytes[at] ^= 0x40;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&bytes).unwrap();
    file.as_file().set_permissions(std::fs::Permissions::from_mode(0o444)).unwrap();
    file
}

#[tokio::test]
async fn a_corrupt_weight_ends_in_503_and_never_in_a_token() {
    for tensor in ["model.embed_tokens.weight", "lm_head.weight"] {
        let file = flipped(|s| s.tensors().iter().find(|t| t.name == tensor).unwrap().offset + 77);
        let child = Child::launch(options()).await;
        let bodies = [false, true].map(|stream| completion(&json!([1, 2]), 8, json!({"stream": stream})));
        child.order(file.path());
        let answers =
            tokio::join!(child.post("/v1/completions", &bodies[0]), child.post("/v1/completions", &bodies[1]));
        for (status, answer) in [answers.0, answers.1] {
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
            let message = answer["error"]["message"].as_str().unwrap();
            assert!(message.contains("weights") && message.contains("0x"), "{message}");
        }
        let failed = loop {
            match child.hear().await.unwrap() {
                FromRuntime::Ready { .. } => {}
                other => break other,
            }
        };
        let FromRuntime::Failed { kind, message } = failed else { panic!("{failed:?}") };
        assert_eq!(kind, FailureKind::BadSnapshot);
        assert!(message.contains("weights") && message.contains("0x"), "{message}");
        assert_eq!(child.exit().await, code(65));
    }
}

#[tokio::test]
async fn what_is_no_snapshot_fails_with_65_and_answers_those_that_wait() {
    let truncated = {
        let bytes = std::fs::read(snapshot()).unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes[..bytes.len() / 2]).unwrap();
        file
    };
    for file in [truncated, flipped(|_| 0), flipped(|_| 8), flipped(|_| 5000)] {
        let child = Child::launch(options()).await;
        child.order(file.path());
        let (status, answer) = child.post("/v1/completions", &completion(&json!([1]), 1, json!({}))).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{answer}");
        let Some(FromRuntime::Failed { kind, .. }) = child.hear().await else { panic!() };
        assert_eq!(kind, FailureKind::BadSnapshot);
        assert_eq!(child.exit().await, code(65));
    }
}

#[tokio::test]
async fn nonsense_on_the_control_socket_ends_in_failed() {
    let child = Child::launch(options()).await;
    child.tell(&ToRuntime::Restore { model: "m".into(), kv_memory_bytes: None, verified: false, wrapped_key: None });
    let Some(FromRuntime::Failed { kind, message }) = child.hear().await else { panic!() };
    assert_eq!((kind, message.contains("descriptor")), (FailureKind::Internal, true));
    assert_eq!(child.exit().await, code(70));
}
