//! Many generations at once, seen from outside: what one gets does not depend on the others, memory that runs out delays and
//! never loses, and what is cancelled leaves nothing.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use support::server::JSON;
use support::{Serve, client, golden, smollm2, until};

const REQUESTS: usize = 200;
const CLIENTS: usize = 32;
/// So many long answers need three times the memory.
const LONG: usize = 6;

/// Request `i` of many: prompts of 1 to 190 tokens, some with a common beginning, some that repeat themselves; answers of 1 to
/// 60 tokens, greedy and sampled, with penalties and several choices.
fn ask(i: usize) -> Value {
    let length = 1 + i * 37 % 190;
    let word = |t: usize| match i % 3 {
        0 => 2 + t * 7 % 90,
        1 => 2 + (t * t + i) % 700,
        _ => 2 + t % 5 + i % 11,
    };
    let mut body = json!({
        "model": "tiny", "prompt": (0..length).map(word).collect::<Vec<_>>(), "max_tokens": 1 + i * 13 % 60,
        "ignore_eos": true, "seed": i, "logprobs": 2, "return_tokens_as_token_ids": true,
        "temperature": if i.is_multiple_of(2) { 0.0 } else { 0.9 },
    });
    if i.is_multiple_of(5) {
        body["presence_penalty"] = json!(0.5);
        body["n"] = json!(2);
    }
    body
}

/// Request `i` of a few whose answers do not fit the memory for keys and values together, whenever each begins.
fn ask_long(i: usize) -> Value {
    json!({"model": "tiny", "prompt": [5 + i, 9, 7 * i], "max_tokens": 240, "ignore_eos": true, "seed": i, "temperature": 0.8,
        "logprobs": 2, "return_tokens_as_token_ids": true})
}

/// What must not depend on anything else: tokens and the very bits of their log probabilities.
fn essence(answer: &Value) -> Value {
    let mut choices = answer["choices"].clone();
    choices.as_array_mut().unwrap_or_else(|| panic!("{answer}")).sort_by_key(|choice| choice["index"].as_u64());
    choices
}

/// Runs `work(i)` for all requests, so many at a time; results in order.
fn at_once<T: Send>(clients: usize, requests: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let next = AtomicUsize::new(0);
    let mut done: Vec<(usize, T)> = std::thread::scope(|scope| {
        let client = || {
            let take = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|i| *i < requests);
            std::iter::from_fn(|| take().map(|i| (i, work(i)))).collect::<Vec<_>>()
        };
        let clients: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}

fn complete(server: &Serve, body: &Value) -> Value {
    let answer = server.post("/v1/completions", body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

#[test]
fn two_hundred_requests_at_once_get_the_tokens_and_bits_they_get_one_at_a_time() {
    // Blocks for a few sequences only, so that some are sent back; then one at a time, on one thread, with neither prefix cache
    // nor speculation.
    let crowded = tiny("native", &["--kv-memory", "96KiB"]);
    let all = |i: usize| if i < LONG { ask_long(i) } else { ask(i - LONG) };
    let together = at_once(CLIENTS, LONG + REQUESTS, |i| complete(&crowded, &all(i)));
    let quiet = tiny("native", &["--threads", "1"]);
    for (i, answer) in together.iter().enumerate() {
        let mut alone = all(i);
        alone["cache_prompt"] = json!(false);
        alone["speculate"] = json!(false);
        assert_eq!(essence(answer), essence(&complete(&quiet, &alone)), "request {i}");
    }
    let counted = |name: &str| crowded.metric(name);
    until("no block in use", || (counted("kv_blocks{model=\"tiny\",state=\"used\"}") == 0).then_some(()));
    assert!(counted("preempted_total{model=\"tiny\"}") > 0, "memory never ran out: {}", metrics(&crowded));
    assert!(counted("prefix_reused_tokens_total{model=\"tiny\"}") > 0, "no prefix was found: {}", metrics(&crowded));
    assert!(counted("guessed_tokens_total{model=\"tiny\",outcome=\"right\"}") > 0, "no guess: {}", metrics(&crowded));
}

#[test]
fn half_of_the_clients_leave_at_random_and_no_block_stays_in_use() {
    let server = tiny("native", &[]);
    let stays = |i: usize| !((i * 2654435761) >> 7).is_multiple_of(2);
    let left = at_once(CLIENTS, REQUESTS, |i| {
        let mut body = ask(i);
        if stays(i) {
            assert_eq!(complete(&server, &body)["usage"]["completion_tokens"].as_u64().map(|n| n > 0), Some(true));
            return false;
        }
        body["stream"] = json!(true);
        body["max_tokens"] = json!(250);
        let body = body.to_string();
        let mut stream = client::open(server.api, "POST", "/v1/completions", JSON, body.as_bytes()).unwrap();
        (0..i % 7).for_each(|_| drop(stream.event().unwrap()));
        true
    });
    assert!(left.iter().filter(|left| **left).count() > REQUESTS / 3);
    until("no block in use", || (server.metric("kv_blocks{model=\"tiny\",state=\"used\"}") == 0).then_some(()));
    assert_eq!(server.metric("sequences{model=\"tiny\",state=\"running\"}"), 0);
}

#[test]
fn a_shared_prefix_is_computed_once() {
    let server = tiny("native", &[]);
    let prompt = |last: usize| (0..300).map(|t| 2 + t * 31 % 700).chain([last]).collect::<Vec<_>>();
    let ask = |last| complete(&server, &json!({"model": "tiny", "prompt": prompt(last), "max_tokens": 1}));
    ask(5);
    ask(6);
    // 301 tokens are nine whole blocks of 32 and a rest.
    until("the tokens that were reused", || {
        (server.metric("prefix_reused_tokens_total{model=\"tiny\"}") == 288).then_some(())
    });
}

#[test]
fn smollm2_answers_with_its_whole_context_and_refuses_one_token_more() {
    let Some(snapshot) = smollm2() else { return };
    let server = Serve::start(&["--model", &format!("smollm2={}", snapshot.display()), "--idle", "60s"]);
    let ask = |tokens: usize| {
        let prompt: Vec<usize> = (0..tokens).map(|t| 100 + t * 37 % 20_000).collect();
        server.post(
            "/v1/completions",
            &json!({"model": "smollm2", "prompt": prompt, "max_tokens": 2, "ignore_eos": true}),
        )
    };
    let answer = ask(8190);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["usage"]["total_tokens"], 8192);
    let refused = ask(8191);
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(refused.text().contains("8192") && refused.text().contains("8193"), "{}", refused.text());
}

fn tiny(weights: &str, more: &[&str]) -> Serve {
    let model = format!("tiny={}", golden("llama3-tiny", weights).display());
    Serve::start(&[&["--model", &model, "--idle", "60s"], more].concat())
}

fn metrics(server: &Serve) -> String {
    server.admin("/metrics").text()
}
