//! One process succeeds another on the same ports, under load: nobody notices.
#![allow(clippy::unwrap_used)]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use support::client::open;
use support::server::JSON;
use support::{Serve, golden, pilotlight, process, until};

const CLIENTS: usize = 20;

fn request(tokens: u32) -> Value {
    json!({"model": "tiny", "prompt": [1, 2, 3], "max_tokens": tokens, "temperature": 0, "ignore_eos": true, "stream": true})
}

/// The text of a stream that has ended as it should.
fn text(server: &Serve, tokens: u32) -> String {
    let mut body = open(server.api, "POST", "/v1/completions", JSON, request(tokens).to_string().as_bytes()).unwrap();
    assert_eq!(body.status, 200);
    let mut text = String::new();
    loop {
        let data = body.event().unwrap().expect("a stream ends with [DONE]");
        if data == "[DONE]" {
            return text;
        }
        let event: Value = serde_json::from_str(&data).unwrap();
        assert!(event["error"].is_null(), "{event}");
        text += event["choices"][0]["text"].as_str().unwrap_or_default();
    }
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// Pids of those that have succeeded, as the logs say.
fn successors(server: &Serve) -> Vec<u32> {
    let log = server.log();
    let lines = log.lines().filter(|line| line.contains("another process accepts"));
    let pid = |line: &str| line.split("\"pid\":").nth(1)?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    lines.filter_map(pid).collect()
}

#[test]
fn a_successor_takes_the_ports_over_and_no_request_fails() {
    let folder = tempfile::tempdir().unwrap();
    let audit = folder.path().join("audit.jsonl");
    let model = format!("tiny={}", golden("llama3-tiny", "f32").display());
    let mut server = Serve::start(&[
        "--model",
        &model,
        "--idle",
        "60s",
        "--audit",
        audit.to_str().unwrap(),
        "--threads",
        "1",
        "--drain-timeout",
        "100ms",
    ]);
    let expected = text(&server, 30);
    // One that began with the first process ends with it, however long that takes: the drain timeout is for who is told to end.
    let long = request(480).to_string();
    let mut held = open(server.api, "POST", "/v1/completions", JSON, long.as_bytes()).unwrap();
    assert!(held.event().unwrap().is_some());
    let (over, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    assert_eq!(text(&server, 30), expected, "{}", server.log());
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let answers = || answered.load(Ordering::Relaxed);
        let progress = |by: u64| {
            let from = answers();
            until("answers", || (answers() >= from + by).then_some(()));
        };
        progress(50);
        signal(server.id(), Signal::USR2);
        until("a successor", || (successors(&server).len() == 1).then_some(()));
        progress(50);
        // And once more, of the successor.
        signal(successors(&server)[0], Signal::USR2);
        until("another successor", || (successors(&server).len() == 2).then_some(()));
        progress(50);
        over.store(true, Ordering::Relaxed);
    });
    let mut rest = 0;
    while let Some(data) = held.event().unwrap() {
        assert!(!data.contains("\"error\""), "{data}");
        rest += u64::from(data == "[DONE]");
    }
    assert_eq!(rest, 1);
    assert_eq!(server.wait().code(), Some(0), "{}", server.log());
    let last = *successors(&server).last().unwrap();
    signal(last, Signal::TERM);
    // Gone, or a zombie that a foreign parent has not reaped yet.
    let alive = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        !status.is_empty() && !status.contains("State:\tZ")
    };
    until("the last one has ended", || (!alive(last)).then_some(()));
    let (code, _, why) = process::run(pilotlight().args(["audit", "verify", audit.to_str().unwrap()]));
    assert_eq!(code, Some(0), "{why}");
    let lines = std::fs::read_to_string(&audit).unwrap();
    let ids: BTreeSet<String> =
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["id"].to_string()).collect();
    assert_eq!(ids.len() as u64, answered.into_inner() + 2, "each request stands there once");
}

#[test]
fn a_successor_that_cannot_start_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("pilotlight.toml");
    let text_of = |idle: &str| {
        let snapshot = golden("llama3-tiny", "f32");
        std::fs::write(
            &config,
            format!("idle = \"{idle}\"\n[models.tiny]\nsnapshot = {:?}\n", snapshot.display().to_string()),
        )
        .unwrap();
    };
    text_of("60s");
    let server = Serve::start(&["--config", config.to_str().unwrap()]);
    let expected = text(&server, 10);
    text_of("nonsense");
    signal(server.id(), Signal::USR2);
    until("that it is told", || server.log().contains("nothing succeeds this process").then_some(()));
    assert_eq!(text(&server, 10), expected);
}

/// As systemd starts a service with `Accept=no` and a socket unit of two streams.
#[test]
fn a_service_managers_sockets_are_used() {
    let sockets = [(); 2].map(|()| std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap());
    let [api, admin] = sockets.each_ref().map(|socket| socket.local_addr().unwrap());
    let script = "import os, sys\nfor to, of in ((3, int(sys.argv[1])), (4, int(sys.argv[2]))): os.dup2(of, to + 20)\n\
                  for to in (3, 4): os.dup2(to + 20, to)\n\
                  os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='2')\nos.execv(sys.argv[3], sys.argv[3:])";
    let model = format!("tiny={}", golden("llama3-tiny", "f32").display());
    let mut command = Command::new("python3");
    let numbers = sockets.each_ref().map(|socket| {
        rustix::io::fcntl_setfd(socket, rustix::io::FdFlags::empty()).unwrap();
        socket.as_raw_fd().to_string()
    });
    command.args(["-c", script]).args(&numbers).arg(pilotlight().get_program()).args(["serve", "--model", &model]);
    command.process_group(0);
    let server = Serve::spawn(command);
    assert_eq!((server.api, server.admin), (api, admin));
    assert!(!text(&server, 3).is_empty());
}
