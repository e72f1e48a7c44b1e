//! A runtime's end in the middle of a stream, seen by its client: a pause. What comes out is bit for bit what an undisturbed stream is,
//! whatever the request asks for and wherever the runtime dies.
#![allow(clippy::unwrap_used)]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use support::client::{Body, open};
use support::server::JSON;
use support::{Serve, golden, process, smollm2, until};
use tempfile::TempDir;

/// What a client makes of a stream.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    /// Text, calls and log probabilities of each choice, put together; how often its role was said; why it ended.
    choices: BTreeMap<u64, Choice>,
    usage: Vec<Value>,
    errors: Vec<String>,
    done: usize,
}

#[derive(Debug, Default, PartialEq)]
struct Choice {
    text: String,
    calls: Vec<(String, String)>,
    logprobs: Vec<Value>,
    roles: usize,
    finish: Vec<String>,
}

struct Stream {
    body: Body,
    seen: Seen,
    /// Ids and times of its events: all the same.
    envelopes: Vec<(Value, Value)>,
}

impl Stream {
    fn open(server: &Serve, path: &str, request: &Value) -> Self {
        let mut request = request.clone();
        request["stream"] = true.into();
        request["stream_options"] = json!({"include_usage": true});
        let body = open(server.api, "POST", path, JSON, request.to_string().as_bytes()).unwrap();
        assert_eq!(body.status, 200, "{:?}", body.headers);
        assert!(!body.headers.iter().any(|(name, _)| name.starts_with("pilotlight-identity")), "{:?}", body.headers);
        Self { body, seen: Seen::default(), envelopes: Vec::new() }
    }

    /// Takes the next event; false behind the last.
    fn next(&mut self) -> bool {
        let data = loop {
            match self.body.line().expect("every stream ends as HTTP says") {
                None => return false,
                Some(line) if line.starts_with(": pl") => panic!("a mark reached the client: {line}"),
                Some(line) => {
                    if let Some(data) = line.strip_prefix("data: ") {
                        break data.to_owned();
                    }
                }
            }
        };
        if data == "[DONE]" {
            self.seen.done += 1;
            return true;
        }
        let event: Value = serde_json::from_str(&data).unwrap();
        if let Some(error) = event["error"]["message"].as_str() {
            self.seen.errors.push(error.to_owned());
            return true;
        }
        self.envelopes.push((event["id"].clone(), event["created"].clone()));
        self.seen.usage.extend(event.get("usage").filter(|usage| !usage.is_null()).cloned());
        for choice in event["choices"].as_array().unwrap() {
            self.seen.choices.entry(choice["index"].as_u64().unwrap()).or_default().add(choice);
        }
        true
    }

    fn rest(mut self) -> Seen {
        while self.next() {}
        assert!(
            self.envelopes.windows(2).all(|pair| pair[0] == pair[1]),
            "one answer has one id: {:?}",
            self.envelopes
        );
        self.seen
    }
}

impl Choice {
    fn add(&mut self, choice: &Value) {
        let delta = &choice["delta"];
        self.text += delta["content"].as_str().or(choice["text"].as_str()).unwrap_or_default();
        self.roles += usize::from(delta["role"].is_string());
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().unwrap() as usize;
            if self.calls.len() <= index {
                self.calls.resize(index + 1, Default::default());
            }
            let (name, arguments) = &mut self.calls[index];
            *name += call["function"]["name"].as_str().unwrap_or_default();
            *arguments += call["function"]["arguments"].as_str().unwrap_or_default();
        }
        let logprobs = &choice["logprobs"];
        self.logprobs.extend(
            logprobs["content"].as_array().or(logprobs["token_logprobs"].as_array()).into_iter().flatten().cloned(),
        );
        self.finish.extend(choice["finish_reason"].as_str().map(str::to_owned));
    }
}

fn only_child(server: &Serve) -> u32 {
    until("one runtime", || match process::children(server.id())[..] {
        [only] => Some(only),
        _ => None,
    })
}

fn end(server: &Serve, signal: Signal) {
    kill_process(Pid::from_raw(only_child(server) as i32).unwrap(), signal).unwrap();
}

/// The runtime that answers, once it is another than `before`: a death before it is ready is none of a request's.
fn answering(server: &Serve, model: &str, before: u32) -> u32 {
    until("a runtime that answers", || {
        let slot = server.slot(model);
        let pid = slot["replicas"][0]["pid"].as_u64().map(|pid| pid as u32);
        pid.filter(|pid| slot["state"] == "ready" && slot["in_flight"] == 1 && *pid != before)
    })
}

/// The stream, with a signal to its runtime after each of these numbers of events.
fn disturbed(server: &Serve, path: &str, request: &Value, signals: &[(usize, Signal)]) -> Seen {
    let mut stream = Stream::open(server, path, request);
    let mut ended = 0;
    for (events, signal) in signals {
        for _ in 0..*events {
            assert!(stream.next() && stream.seen.done == 0, "the answer is longer than that: {:?}", stream.seen);
        }
        ended = answering(server, "m", ended);
        kill_process(Pid::from_raw(ended as i32).unwrap(), *signal).unwrap();
    }
    stream.rest()
}

fn requests() -> Vec<(&'static str, &'static str, Value)> {
    let question = json!([{"role": "user", "content": "Name three rivers and say where they are."}]);
    let tool = json!({"type": "function", "function": {"name": "weather", "parameters": {"type": "object",
        "properties": {"city": {"type": "string", "maxLength": 60}, "days": {"type": "integer"}}, "required": ["city", "days"]}}});
    let schema = json!({"type": "json_schema", "json_schema": {"name": "rivers", "schema": {"type": "object",
        "properties": {"rivers": {"type": "array", "items": {"type": "string", "maxLength": 30}, "minItems": 3, "maxItems": 4}},
        "required": ["rivers"]}}});
    let (chat, text) = ("/v1/chat/completions", "/v1/completions");
    vec![
        (
            "greedy",
            text,
            json!({"model": "m", "prompt": "Once upon a time", "max_tokens": 90, "temperature": 0, "ignore_eos": true}),
        ),
        (
            "by its key",
            chat,
            json!({"model": "m", "messages": question, "max_tokens": 90, "temperature": 1.0, "seed": 5,
            "ignore_eos": true, "frequency_penalty": 0.7, "repetition_penalty": 1.1}),
        ),
        (
            "several",
            chat,
            json!({"model": "m", "messages": question, "max_tokens": 40, "n": 3, "seed": 11, "ignore_eos": true}),
        ),
        (
            "with log probabilities",
            chat,
            json!({"model": "m", "messages": question, "max_tokens": 60, "seed": 2, "logprobs": true,
            "top_logprobs": 3, "ignore_eos": true}),
        ),
        (
            "echoed",
            text,
            json!({"model": "m", "prompt": ["Once upon a time", "The river"], "max_tokens": 40, "seed": 3, "echo": true,
            "logprobs": 2, "ignore_eos": true}),
        ),
        (
            "until a word",
            text,
            json!({"model": "m", "prompt": "1, 2, 3, 4, 5, 6,", "max_tokens": 200, "temperature": 0, "ignore_eos": true,
            "stop": ["zzzz", "\n\n\n\n\n", " 19,"]}),
        ),
        (
            "of a form",
            chat,
            json!({"model": "m", "messages": question, "max_tokens": 120, "seed": 4, "response_format": schema}),
        ),
        (
            "a call",
            chat,
            json!({"model": "m", "messages": question, "max_tokens": 120, "seed": 6, "tools": [tool],
            "tool_choice": "required"}),
        ),
    ]
}

#[test]
fn a_runtime_that_is_killed_in_a_stream_is_a_pause_and_nothing_of_the_answer_is_lost_or_said_twice() {
    let Some(snapshot) = smollm2() else { return };
    let server = Serve::start(&["--model", &format!("m={}", snapshot.display()), "--idle", "60s"]);
    for (name, path, request) in requests() {
        let expected = Stream::open(&server, path, &request).rest();
        assert!(expected.errors.is_empty() && expected.done == 1 && expected.usage.len() == 1, "{name}: {expected:?}");
        for events in [1, 2, 7] {
            let seen = disturbed(&server, path, &request, &[(events, Signal::KILL)]);
            assert_eq!(seen, expected, "{name}, killed after {events} events");
        }
    }
}

#[test]
fn a_runtime_that_is_told_to_end_keeps_what_it_has_computed_and_the_next_goes_on_with_that() {
    let Some(snapshot) = smollm2() else { return };
    let folder = TempDir::new().unwrap();
    let model = format!("m={}", snapshot.display());
    let server = Serve::start(&["--model", &model, "--idle", "60s", "--kv-dir", folder.path().to_str().unwrap()]);
    let prompt: Vec<usize> = (0..200).map(|t| 100 + t * 37 % 9000).collect();
    let request =
        json!({"model": "m", "prompt": prompt, "max_tokens": 100, "seed": 1, "ignore_eos": true, "cache_prompt": true});
    let seen = disturbed(
        &server,
        "/v1/completions",
        &request,
        &[(40, Signal::TERM), (5, Signal::TERM), (5, Signal::TERM), (5, Signal::TERM)],
    );
    let reused = server.metric("prefix_reused_tokens_total{model=\"m\"}") as usize;
    assert!(reused >= 3 * 192, "{reused} tokens of the prompt and the answer were not computed again");
    let plain = Serve::start(&["--model", &model, "--idle", "60s"]);
    assert_eq!(seen, Stream::open(&plain, "/v1/completions", &request).rest());
    // One that is killed has kept what there was time for.
    let other = json!({"model": "m", "prompt": prompt[1..], "max_tokens": 200, "seed": 1, "ignore_eos": true, "cache_prompt": true});
    let before = server.metric("prefix_reused_tokens_total{model=\"m\"}");
    let killed = disturbed(&server, "/v1/completions", &other, &[(150, Signal::KILL)]);
    assert_eq!(killed, Stream::open(&plain, "/v1/completions", &other).rest());
    let reused = || server.metric("prefix_reused_tokens_total{model=\"m\"}") - before;
    until("what was kept was used", || (reused() >= 192).then_some(()));
    // A whole answer that is interrupted is asked for again, too.
    let request = json!({"model": "m", "prompt": prompt, "max_tokens": 60, "seed": 1, "ignore_eos": true});
    let expected = plain.post("/v1/completions", &request).json();
    let answer = std::thread::scope(|scope| {
        let asked = scope.spawn(|| server.post("/v1/completions", &request));
        until("it is computed", || (server.slot("m")["in_flight"] == 1).then_some(()));
        end(&server, Signal::TERM);
        asked.join().unwrap()
    });
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["choices"], expected["choices"]);
}

#[test]
fn a_request_beside_which_runtimes_die_twice_is_given_up_and_others_are_answered() {
    let Some(snapshot) = smollm2() else { return };
    let server = Serve::start(&["--model", &format!("m={}", snapshot.display()), "--idle", "60s"]);
    let (_, path, request) = requests().remove(0);
    let seen = disturbed(&server, path, &request, &[(3, Signal::ABORT), (3, Signal::ABORT)]);
    assert!(seen.errors.len() == 1 && seen.errors[0].contains("twice") && seen.done == 1, "{seen:?}");
    assert!(seen.choices[&0].finish.is_empty(), "{seen:?}");
    let lost = |outcome| server.metric(&format!("requests_lost_total{{model=\"m\",outcome=\"{outcome}\"}}"));
    assert_eq!([lost("died"), lost("interrupted"), lost("given_up")], [2, 0, 1]);
    let again = Stream::open(&server, path, &request).rest();
    assert!(again.errors.is_empty() && again.choices[&0].text.starts_with(&seen.choices[&0].text), "{again:?}");
}

/// What was let in once is held again, however many there are and however few may be held that were not.
#[test]
fn all_streams_of_a_runtime_that_dies_go_on() {
    let Some(snapshot) = smollm2() else { return };
    let server = Serve::start(&["--model", &format!("m={}", snapshot.display()), "--idle", "60s", "--hold-max", "1"]);
    let (_, path, request) = requests().remove(0);
    let expected = Stream::open(&server, path, &request).rest();
    let mut streams: Vec<_> = (0..5).map(|_| Stream::open(&server, path, &request)).collect();
    streams.iter_mut().for_each(|stream| (0..3).for_each(|_| assert!(stream.next())));
    end(&server, Signal::KILL);
    streams.into_iter().for_each(|stream| assert_eq!(stream.rest(), expected));
}

/// As a service manager ends all processes of a service at once.
#[test]
fn all_processes_told_to_end_at_once_still_finish_what_runs() {
    let Some(snapshot) = smollm2() else { return };
    let server = Serve::start(&["--model", &format!("m={}", snapshot.display()), "--idle", "60s"]);
    let (_, path, request) = requests().remove(0);
    let expected = Stream::open(&server, path, &request).rest();
    let mut stream = Stream::open(&server, path, &request);
    (0..3).for_each(|_| assert!(stream.next()));
    let pids = [server.id(), only_child(&server)];
    pids.iter().for_each(|pid| kill_process(Pid::from_raw(*pid as i32).unwrap(), Signal::TERM).unwrap());
    assert_eq!(stream.rest(), expected);
}

#[test]
fn nobody_goes_on_with_an_answer_of_another_model() {
    let Some(snapshot) = smollm2() else { return };
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("m.snapshot");
    std::os::unix::fs::symlink(&snapshot, &file).unwrap();
    let server = Serve::start(&["--model", &format!("m={}", file.display()), "--idle", "60s"]);
    let (_, path, request) = requests().remove(0);
    let mut stream = Stream::open(&server, path, &request);
    (0..3).for_each(|_| assert!(stream.next()));
    let other = folder.path().join("other");
    std::os::unix::fs::symlink(golden("llama3-tiny", "native"), &other).unwrap();
    fs::rename(&other, &file).unwrap();
    end(&server, Signal::KILL);
    let seen = stream.rest();
    assert!(
        seen.errors.len() == 1 && seen.errors[0].contains("others than those that began it") && seen.done == 1,
        "{seen:?}"
    );
}
