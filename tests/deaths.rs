//! Runtimes that die, and what is left of them: processes, socket files, descriptors, memory.
#![allow(clippy::unwrap_used)]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::time::Duration;
use support::client::{Body, open};
use support::server::JSON;
use support::{Serve, golden, process, smollm2, until};

#[test]
fn runtimes_that_die_twice_in_one_stream_end_it_in_an_error_event_and_the_next_request_starts_a_new_one() {
    let Some(snapshot) = smollm2() else { return };
    let server = Serve::start(&["--model", &format!("smollm2={}", snapshot.display())]);
    let mut stream = stream(&server);
    let mut killed = 0;
    for _ in 0..2 {
        assert!(stream.event().unwrap().is_some(), "a token arrives");
        killed = answering(&server, "smollm2", killed);
        // As it dies of its own mistakes.
        signal(killed, Signal::ABORT);
    }
    let events = rest(&mut stream);
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"), "a cut stream says so: {events:?}");
    assert!(events.iter().any(|event| event.contains("\"error\"")), "{events:?}");
    let answer = server.post("/v1/completions", &short("smollm2"));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_ne!(only_child(&server), killed);
}

/// From before the first instruction of the runtime to after its last token, in steps that grow to a millisecond: most of them fall into the restore.
#[test]
fn kill_at_any_moment_gives_a_clean_error_or_a_complete_answer() {
    let server = tiny(&["--idle", "60s"]);
    let long =
        json!({"model": "tiny", "prompt": [10, 20, 30], "max_tokens": 200, "temperature": 0, "ignore_eos": true});
    let (mut whole, mut errors) = (0, 0);
    for step in 0..100_u64 {
        let (answer, killed) = std::thread::scope(|scope| {
            let asked = scope.spawn(|| server.post("/v1/completions", &long));
            let child = until("a runtime", || process::children(server.id()).first().copied());
            // The moment is the parameter of this test, not something to wait for.
            std::thread::sleep(Duration::from_micros(step * step * 6));
            kill(child);
            (asked.join().unwrap(), child)
        });
        match answer.status {
            200 => {
                whole += 1;
                assert_eq!(answer.json()["usage"]["completion_tokens"], 200, "{}", answer.text());
            }
            502 | 503 => {
                errors += 1;
                assert!(answer.json()["error"]["message"].is_string(), "{}", answer.text());
            }
            other => panic!("status {other}: {}", answer.text()),
        }
        until("the dead runtime is seen", || {
            let state = server.slot("tiny")["state"].clone();
            let gone = !process::children(server.id()).contains(&killed);
            (gone && (state == "cold" || state == "ready")).then_some(())
        });
    }
    println!("{whole} whole answers, {errors} clean errors");
    assert_eq!(server.post("/v1/completions", &short("tiny")).status, 200, "and it still serves");
}

#[test]
fn two_hundred_cold_idle_cycles_leave_nothing_behind() {
    let server = tiny(&["--idle", "1ms"]);
    let mut after_20 = 0;
    let mut descriptors_after_20 = 0;
    for cycle in 1..=200 {
        let answer = server.post("/v1/completions", &short("tiny"));
        assert_eq!(answer.status, 200, "cycle {cycle}: {}", answer.text());
        server.until_slot("tiny", "cold");
        if cycle == 20 {
            after_20 = process::resident_kib(server.id()).unwrap();
            descriptors_after_20 = descriptors(server.id());
        }
    }
    let after_200 = process::resident_kib(server.id()).unwrap();
    println!("activator: {after_20} KiB resident after 20 cycles, {after_200} KiB after 200");
    let bound = after_20 + after_20 / 20;
    assert!(after_200 <= bound, "{after_20} KiB after 20 cycles, {after_200} KiB after 200");
    assert!(after_200 < 30_000, "{after_200} KiB: the activator is promised to stay below 30 MB");
    assert!(process::children(server.id()).is_empty());
    assert!(descriptors(server.id()) <= descriptors_after_20 + 4, "descriptors leak");
    assert!(socket_files(server.id()).is_empty(), "{:?}", socket_files(server.id()));
}

#[test]
fn serving_smollm2_needs_less_than_300_mb_in_the_runtime() {
    let Some(snapshot) = smollm2() else { return };
    let server = Serve::start(&["--model", &format!("smollm2={}", snapshot.display())]);
    let answer = server.post(
        "/v1/completions",
        &json!({"model": "smollm2", "prompt": "The sea ".repeat(250),
        "max_tokens": 64, "ignore_eos": true}),
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    let runtime = process::resident_kib(only_child(&server)).unwrap();
    let activator = process::resident_kib(server.id()).unwrap();
    println!("resident: runtime {runtime} KiB, activator {activator} KiB");
    assert!(runtime < 300_000, "runtime: {runtime} KiB");
    assert!(activator < 30_000, "activator: {activator} KiB");
}

#[test]
fn a_killed_activator_takes_its_runtime_with_it() {
    let server = tiny(&[]);
    assert_eq!(server.post("/v1/completions", &short("tiny")).status, 200);
    let runtime = only_child(&server);
    kill(server.id());
    until("the runtime ends with its activator", || ended(runtime).then_some(()));
}

fn tiny(arguments: &[&str]) -> Serve {
    let model = format!("tiny={}", golden("llama3-tiny", "f32").display());
    Serve::start(&[&["--model", &model], arguments].concat())
}

fn short(model: &str) -> Value {
    json!({"model": model, "prompt": [10, 20, 30], "max_tokens": 16, "temperature": 0, "ignore_eos": true})
}

fn stream(server: &Serve) -> Body {
    let body = json!({"model": "smollm2", "prompt": "Once upon a time", "max_tokens": 2000, "ignore_eos": true,
        "stream": true});
    let stream = open(server.api, "POST", "/v1/completions", JSON, body.to_string().as_bytes()).unwrap();
    assert_eq!(stream.status, 200);
    stream
}

fn rest(stream: &mut Body) -> Vec<String> {
    std::iter::from_fn(|| stream.event().expect("a cut stream still ends as HTTP says")).collect()
}

/// The runtime that answers, once it is another than `before`: a death before it is ready is none of a request's.
fn answering(server: &Serve, model: &str, before: u32) -> u32 {
    until("a runtime that answers", || {
        let slot = server.slot(model);
        let pid = slot["replicas"][0]["pid"].as_u64().map(|pid| pid as u32);
        pid.filter(|pid| slot["state"] == "ready" && slot["in_flight"] == 1 && *pid != before)
    })
}

fn only_child(server: &Serve) -> u32 {
    let children = process::children(server.id());
    assert_eq!(children.len(), 1, "{children:?}");
    children[0]
}

/// What is read of a mapping beyond its file's end is a SIGBUS.
#[test]
fn a_snapshot_that_is_cut_short_in_use_ends_its_runtime_with_a_word_and_not_its_activator() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("cut.snapshot");
    let whole = std::fs::read(golden("llama3-tiny", "f32")).unwrap();
    std::fs::write(&file, &whole).unwrap();
    let server = Serve::start(&["--model", &format!("tiny={}", file.display()), "--idle", "60s"]);
    assert_eq!(server.post("/v1/completions", &short("tiny")).status, 200);
    let first = only_child(&server);
    // The header, the table and the first weights stay.
    std::fs::File::options().write(true).open(&file).unwrap().set_len(whole.len() as u64 / 4).unwrap();
    let answer = server.post("/v1/completions", &short("tiny"));
    assert!(matches!(answer.status, 502 | 503), "{}: {}", answer.status, answer.text());
    until("the runtime's end", || (!process::children(server.id()).contains(&first)).then_some(()));
    assert!(server.log().contains("cut short while it was in use"), "{}", server.log());
    let answer = server.post("/v1/completions", &short("tiny"));
    assert!(
        answer.status == 503 && answer.text().contains("bytes"),
        "says what is wrong with the file: {}",
        answer.text()
    );
    std::fs::write(folder.path().join("new"), &whole).unwrap();
    std::fs::rename(folder.path().join("new"), &file).unwrap();
    until("an answer from the new file", || {
        (server.post("/v1/completions", &short("tiny")).status == 200).then_some(())
    });
}

fn kill(id: u32) {
    signal(id, Signal::KILL);
}

fn signal(id: u32, signal: Signal) {
    let id = Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
    // It may have ended by itself in the meantime.
    let _ = kill_process(id, signal);
}

/// Gone, or a zombie that a foreign parent has not reaped yet.
fn ended(id: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    status.is_empty() || status.contains("State:\tZ")
}

fn descriptors(id: u32) -> usize {
    std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count()
}

/// Paths of the Unix sockets that a process holds.
fn socket_files(id: u32) -> Vec<String> {
    let table = std::fs::read_to_string(format!("/proc/{id}/net/unix")).unwrap();
    let mine: Vec<String> = std::fs::read_dir(format!("/proc/{id}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok()?.to_str().map(str::to_owned))
        .filter_map(|link| Some(link.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let named = table.lines().skip(1).filter_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        (columns.len() > 7 && mine.iter().any(|inode| inode == columns[6])).then(|| columns[7].to_owned())
    });
    named.collect()
}
