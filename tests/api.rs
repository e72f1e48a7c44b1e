//! Wrong requests through the real command: OpenAI error objects with the right status, and no wake for what can be refused before.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::client::request;
use support::server::JSON;
use support::{Response, Serve, golden, process};

#[test]
fn an_unknown_model_is_404_and_wakes_nothing() {
    let server = tiny(&[]);
    let answer = server.post("/v1/completions", &json!({"model": "nobody", "prompt": "hi"}));
    let error = error(&answer, 404);
    assert_eq!(error["code"], "model_not_found");
    assert!(error["message"].as_str().unwrap().contains("nobody"), "{error}");
    asleep(&server);
}

#[test]
fn a_field_of_the_wrong_type_is_400_and_names_the_field() {
    let server = tiny(&[]);
    for (field, wrong) in [
        ("temperature", json!("hot")),
        ("temperature", json!(99)),
        ("max_tokens", json!(0)),
        ("max_tokens", json!("many")),
        ("top_p", json!([1])),
        ("stop", json!(7)),
        ("stream", json!("yes")),
        ("prompt", json!({"text": "hi"})),
        ("seed", json!("x")),
        ("logprobs", json!(1000)),
    ] {
        let mut body = json!({"model": "tiny", "prompt": "hi"});
        body[field] = wrong.clone();
        let answer = server.post("/v1/completions", &body);
        let error = error(&answer, 400);
        assert!(error["message"].as_str().unwrap().contains(field), "{field}={wrong}: {error}");
        assert_eq!(error["param"], field, "{error}");
    }
    asleep(&server);
}

#[test]
fn a_prompt_that_is_given_back_has_the_log_probabilities_it_was_generated_with() {
    let server = tiny(&[]);
    let ask = |prompt: Value, extra: Value| {
        let mut body = json!({"model": "tiny", "prompt": prompt, "logprobs": 2, "temperature": 0, "ignore_eos": true,
            "return_tokens_as_token_ids": true});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let answer = server.post("/v1/completions", &body);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer = answer.json();
        (answer["choices"][0].clone(), answer["usage"].clone())
    };
    let ids = |choice: &Value| -> Vec<u32> {
        let names = choice["logprobs"]["tokens"].as_array().unwrap().iter();
        names.map(|name| name.as_str().unwrap().strip_prefix("token_id:").unwrap().parse().unwrap()).collect()
    };
    let (first, _) = ask(json!([5, 6, 7]), json!({"max_tokens": 150}));
    let whole: Vec<u32> = [5, 6, 7].into_iter().chain(ids(&first)).collect();
    let (scored, usage) = ask(json!(whole), json!({"echo": true, "max_tokens": 0}));
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(153), &json!(0)));
    assert_eq!((ids(&scored), &scored["finish_reason"]), (whole, &json!("length")));
    for list in ["token_logprobs", "top_logprobs"] {
        let (scores, generated) = (&scored["logprobs"][list], &first["logprobs"][list]);
        assert_eq!(scores.as_array().unwrap()[3..], generated.as_array().unwrap()[..], "the same bits");
        assert!(scores[0].is_null() && !scores[1].is_null() && !scores[2].is_null(), "{scores}");
    }
    // What is generated stands behind the prompt, in the text and in the lists.
    let (both, usage) = ask(json!("hello there"), json!({"echo": true, "max_tokens": 4, "stop": ["hello"]}));
    let text = both["text"].as_str().unwrap();
    assert!(text.starts_with("hello there") && both["finish_reason"] == "length", "{both}");
    let logprobs = &both["logprobs"];
    let count = usage["total_tokens"].as_u64().unwrap() as usize;
    assert!(
        ["tokens", "token_logprobs", "top_logprobs", "text_offset"].iter().all(|list| logprobs[list]
            .as_array()
            .unwrap()
            .len()
            == count)
    );
    assert_eq!(logprobs["text_offset"][count - 4], "hello there".len());
    let (plain, _) = ask(json!("hello there"), json!({"echo": true, "max_tokens": 0, "logprobs": null, "n": 2}));
    assert_eq!((&plain["text"], &plain["logprobs"]), (&json!("hello there"), &Value::Null));
}

#[test]
fn what_is_no_json_is_400() {
    let server = tiny(&[]);
    for body in [b"".as_slice(), b"{", b"\xff\xfe", b"[]", b"null", b"{\"model\": \"tiny\", \"prompt\": \"a\"} x"] {
        error(&request(server.api, "POST", "/v1/completions", JSON, body).unwrap(), 400);
    }
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    error(&request(server.api, "POST", "/v1/chat/completions", JSON, &deep).unwrap(), 400);
    asleep(&server);
}

#[test]
fn a_body_over_the_limit_is_413() {
    let server = tiny(&[]);
    assert_eq!(error(&declared_only(&server, 64 << 20), 413)["type"], "invalid_request_error");
    error(&undeclared(&server, 64 << 20), 413);
    asleep(&server);
}

#[test]
fn a_context_too_long_is_400_and_names_both_numbers() {
    let server = tiny(&[]);
    let prompt: Vec<u32> = (0..600).map(|i| i % 700 + 10).collect();
    let answer = server.post("/v1/completions", &json!({"model": "tiny", "prompt": prompt, "max_tokens": 8}));
    let error = error(&answer, 400);
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("512") && message.contains("60"), "names context and prompt: {message}");
    assert_eq!(error["code"], "context_length_exceeded", "{error}");
}

#[test]
fn a_token_id_outside_the_vocabulary_is_400() {
    let server = tiny(&[]);
    let answer = server.post("/v1/completions", &json!({"model": "tiny", "prompt": [1, 2, 800], "max_tokens": 1}));
    assert!(error(&answer, 400)["message"].as_str().unwrap().contains("800"));
}

#[test]
fn unknown_paths_are_404_and_wrong_methods_405() {
    let server = tiny(&[]);
    error(&server.get("/v1/nothing"), 404);
    error(&server.get("/v1/chat/completions"), 405);
    error(&request(server.api, "DELETE", "/v1/models", &[], b"").unwrap(), 405);
    asleep(&server);
}

#[test]
fn a_deadline_that_passes_while_held_is_504() {
    let server = tiny(&[]);
    let body = json!({"model": "tiny", "prompt": "hi", "max_tokens": 2}).to_string();
    let head = [("content-type", "application/json"), ("x-request-timeout-ms", "1")];
    error(&request(server.api, "POST", "/v1/completions", &head, body.as_bytes()).unwrap(), 504);
}

#[test]
fn after_the_idle_time_no_process_exists_and_slots_says_cold() {
    let server = tiny(&["--idle", "50ms"]);
    assert_eq!(server.slot("tiny")["state"], "cold");
    let answer = server.post("/v1/completions", &json!({"model": "tiny", "prompt": [5, 6], "max_tokens": 3}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.header("server-timing").is_some());
    let slot = server.until_slot("tiny", "cold");
    assert!(slot["replicas"].as_array().unwrap().is_empty(), "{slot}");
    assert!(process::children(server.id()).is_empty());
    let timings = &answer.json()["timings"];
    assert_eq!(timings["cold"], true);
    for span in ["held_ms", "launch_ms", "restore_ms", "first_token_ms"] {
        assert!(timings[span].as_f64().unwrap() > 0.0, "{span}: {timings}");
    }
    let (held, first) = (timings["held_ms"].as_f64().unwrap(), timings["first_token_ms"].as_f64().unwrap());
    assert!(first >= held, "the first token comes after the hold: {timings}");
}

fn tiny(arguments: &[&str]) -> Serve {
    let model = format!("tiny={}", golden("llama3-tiny", "f32").display());
    Serve::start(&[&["--model", &model], arguments].concat())
}

/// Announces a body without sending it.
fn declared_only(server: &Serve, bytes: usize) -> Response {
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect(server.api).unwrap();
    write!(stream, "POST /v1/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {bytes}\r\n\r\n")
        .unwrap();
    support::client::answer(stream).unwrap().finish().unwrap()
}

/// Sends a chunked body of that size, unless the server answers earlier.
fn undeclared(server: &Serve, bytes: usize) -> Response {
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect(server.api).unwrap();
    write!(
        stream,
        "POST /v1/completions HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    .unwrap();
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
    let _cut_by_the_answer = (0..bytes / 0x10000).try_for_each(|_| stream.write_all(&chunk));
    support::client::answer(stream).unwrap().finish().unwrap()
}

/// The error object of an answer with this status.
fn error(answer: &Response, status: u16) -> Value {
    assert_eq!(answer.status, status, "{}", answer.text());
    let error = answer.json()["error"].clone();
    for field in ["message", "type"] {
        assert!(error[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {error}");
    }
    assert!(error.get("param").is_some() && error.get("code").is_some(), "{error}");
    error
}

fn asleep(server: &Serve) {
    assert_eq!(server.slot("tiny")["state"], "cold");
    assert!(process::children(server.id()).is_empty());
}
