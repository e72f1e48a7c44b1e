//! Everything at once: fifty clients stream while runtimes are killed, stopped (as a disk that does not answer stops them) and told to end, models
//! are drained and make room for each other, runtimes are added and taken away, the disk of keys and values fills up, the configuration changes
//! and clients leave. Every answer that a client waits for is bit for bit the undisturbed one.
//!
//! `CHAOS_SECONDS` (default 60) says how long, `CHAOS_SEED` repeats what another run printed.
#![allow(clippy::unwrap_used)]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use support::client::{self, open};
use support::server::JSON;
use support::{Serve, golden, process, tools::skip, until};

const CLIENTS: usize = 50;
/// The last two take turns.
const MODELS: [&str; 3] = ["one", "two", "three"];
/// Different requests of each model.
const REQUESTS: u64 = 12;

/// Marsaglia's xorshift: a run is repeated by its seed, as far as the machine's timing allows.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// A stream's text, reasons and usage, or the status of a refusal.
#[derive(Debug, PartialEq)]
enum Outcome {
    Whole { text: String, finish: Vec<String>, usage: Value },
    Refused(u16),
    Broken(String),
    Left,
}

fn request(model: &str, n: u64) -> Value {
    json!({"model": model, "prompt": [3, 10 + n, 7, 5 + n], "max_tokens": 20 + 8 * n, "temperature": if n.is_multiple_of(2) { 0.0 } else { 0.9 },
        "seed": n, "ignore_eos": true, "stream": true, "stream_options": {"include_usage": true}})
}

/// Asks, and leaves after so many events, if it is to.
fn ask(server: &Serve, model: &str, n: u64, leave_after: Option<u64>) -> Outcome {
    let body = open(server.api, "POST", "/v1/completions", JSON, request(model, n).to_string().as_bytes());
    let mut body = match body {
        Ok(body) if body.status == 200 => body,
        Ok(body) => return Outcome::Refused(body.status),
        Err(error) => return Outcome::Broken(error.to_string()),
    };
    let (mut text, mut finish, mut usage, mut done, mut events) = (String::new(), Vec::new(), Value::Null, 0, 0);
    loop {
        let data = match body.event() {
            Ok(Some(data)) => data,
            Ok(None) => break,
            Err(error) => return Outcome::Broken(error.to_string()),
        };
        if data == "[DONE]" {
            done += 1;
            continue;
        }
        let event: Value = serde_json::from_str(&data).unwrap();
        if event["error"].is_object() {
            return Outcome::Broken(event["error"].to_string());
        }
        for choice in event["choices"].as_array().unwrap() {
            text += choice["text"].as_str().unwrap_or_default();
            finish.extend(choice["finish_reason"].as_str().map(str::to_owned));
        }
        if !event["usage"].is_null() {
            usage = event["usage"].clone();
        }
        events += 1;
        if leave_after.is_some_and(|most| events >= most) {
            return Outcome::Left;
        }
    }
    match done {
        1 => Outcome::Whole { text, finish, usage },
        _ => Outcome::Broken(format!("{done} ends")),
    }
}

/// A small disk of its own for keys and values, which can be filled.
struct Disk {
    folder: PathBuf,
    full: bool,
}

impl Disk {
    /// The command that serves with it: in a mount namespace, where only it sees the disk.
    fn serve(&self) -> Command {
        let mut command = Command::new("unshare");
        let script = "mount -t tmpfs -o size=4m none \"$0\" && exec \"$@\"";
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]).arg(&self.folder);
        command.arg(env!("CARGO_BIN_EXE_pilotlight")).args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
        ]);
        command.arg("--kv-dir").arg(&self.folder);
        command
    }

    /// Fills it to the last byte, or makes room again.
    fn turn(&mut self, server: u32) -> &'static str {
        let inside = format!("/proc/{server}/root{}/filler", self.folder.display());
        self.full = !self.full;
        if !self.full {
            std::fs::remove_file(inside).unwrap();
            return "disk emptied";
        }
        let mut filler = File::create(inside).unwrap();
        while filler.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
        "disk filled"
    }
}

fn write_config(path: &Path, snapshot: &Path, idle_ms: u64, max_replicas: u64) {
    let model = |name: &&str| {
        let snapshot = snapshot.display().to_string();
        format!(
            "[models.{name}]\nsnapshot = {snapshot:?}\nconcurrency = 40\ntarget = 4.0\nmax_replicas = {max_replicas}\n"
        )
    };
    let models: String = MODELS.iter().map(model).collect();
    let turns =
        "[groups.turns]\nmodels = [\"two\", \"three\"]\n[placement]\nresidence = \"200ms\"\nswaps_per_minute = 10000\n";
    let new = path.with_extension("new");
    std::fs::write(&new, format!("idle = \"{idle_ms}ms\"\nstandby = 1\n{models}{turns}")).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// One thing that goes wrong.
fn disturb(
    server: &Serve,
    dice: &mut Dice,
    disk: &mut Disk,
    (config, snapshot): (&Path, &Path),
    counts: &mut BTreeMap<&'static str, u64>,
) {
    let children = process::children(server.id());
    let victim = |dice: &mut Dice| {
        let id = (!children.is_empty()).then(|| children[dice.below(children.len() as u64) as usize])?;
        Pid::from_raw(i32::try_from(id).ok()?)
    };
    // It may be gone before it is hit.
    let hit = |pid: Option<Pid>, signal| pid.is_some_and(|pid| kill_process(pid, signal).is_ok());
    let what = match dice.below(18) {
        0..8 if hit(victim(dice), Signal::KILL) => "killed",
        8..10 if hit(victim(dice), Signal::TERM) => "told to end",
        10..12 => {
            let pid = victim(dice);
            hit(pid, Signal::STOP);
            std::thread::sleep(Duration::from_millis(dice.below(200)));
            hit(pid, Signal::CONT);
            "stopped for a while"
        }
        12..14 => {
            let body = json!({"model": MODELS[dice.below(3) as usize]}).to_string();
            client::request(server.admin, "POST", "/admin/drain", JSON, body.as_bytes()).unwrap();
            "drained"
        }
        14..16 => {
            write_config(config, snapshot, 20 + dice.below(5_000), 1 + dice.below(3));
            "configured anew"
        }
        16..18 => disk.turn(server.id()),
        _ => "missed",
    };
    *counts.entry(what).or_default() += 1;
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn open_files(id: u32) -> usize {
    std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().count()
}

/// Resident memory of the activator that is no file's.
fn memory_kib(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Whether this machine lets us have a disk of our own.
fn can_mount() -> bool {
    let tried = Command::new("unshare").args(["--user", "--map-root-user", "--mount", "true"]).status();
    tried.is_ok_and(|status| status.success())
}

#[test]
fn whatever_happens_to_runtimes_clients_get_every_token_once() {
    if !can_mount() {
        return skip("mount namespaces of one's own (unshare --user --mount) are not to be had");
    }
    let seed = number("CHAOS_SEED")
        .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64 | 1);
    let time = Duration::from_secs(number("CHAOS_SECONDS").unwrap_or(60));
    println!("CHAOS_SEED={seed} CHAOS_SECONDS={}", time.as_secs());
    let folder = tempfile::tempdir().unwrap();
    let (config, snapshot) = (folder.path().join("pilotlight.toml"), golden("llama3-tiny", "f32"));
    write_config(&config, &snapshot, 60_000, 1);
    let mut disk = Disk { folder: folder.path().join("kv"), full: false };
    std::fs::create_dir(&disk.folder).unwrap();
    let mut command = disk.serve();
    command.arg("--config").arg(&config).args(["--threads", "1"]);
    let server = Serve::spawn(command);
    let expected: BTreeMap<_, _> =
        MODELS.iter().flat_map(|model| (0..REQUESTS).map(|n| ((*model, n), ask(&server, model, n, None)))).collect();
    assert!(expected.values().all(|outcome| matches!(outcome, Outcome::Whole { .. })), "{expected:?}");

    let (over, whole, refused, left) =
        (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let client = |n: usize| {
        let mut dice = Dice(seed.wrapping_add(n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        while !over.load(Ordering::Relaxed) {
            let (model, n) = (MODELS[dice.below(3) as usize], dice.below(REQUESTS));
            let leave_after = (dice.below(10) == 0).then(|| 1 + dice.below(20));
            match ask(&server, model, n, leave_after) {
                Outcome::Left => left.fetch_add(1, Ordering::Relaxed),
                Outcome::Refused(503 | 429) => refused.fetch_add(1, Ordering::Relaxed),
                outcome => {
                    assert_eq!(outcome, expected[&(model, n)], "{model} {n}\n{}", server.log());
                    whole.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
    };
    let mut counts = BTreeMap::new();
    let before = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|n| scope.spawn(move || client(n))).collect();
        let (mut dice, began) = (Dice(seed), Instant::now());
        let mut before = None;
        while began.elapsed() < time && clients.iter().all(|client| !client.is_finished()) {
            std::thread::sleep(Duration::from_millis(50 + dice.below(250)));
            disturb(&server, &mut dice, &mut disk, (&config, &snapshot), &mut counts);
            if before.is_none() && began.elapsed() > time / 4 {
                before = Some(memory_kib(server.id()));
            }
        }
        over.store(true, Ordering::Relaxed);
        before.unwrap_or_default()
    });
    let after = memory_kib(server.id());
    let evictions: u64 =
        MODELS.iter().map(|model| server.metric(&format!("evictions_total{{model=\"{model}\"}}"))).sum();
    write_config(&config, &snapshot, 20, 1);
    MODELS.iter().for_each(|model| drop(server.until_slot(model, "cold")));
    until("standbys alone are left", || (process::children(server.id()).len() <= 1).then_some(()));
    let (whole, refused, left) = (whole.into_inner(), refused.into_inner(), left.into_inner());
    println!(
        "{whole} whole, {refused} refused, {left} left; {evictions} had to go; {counts:?}; memory {before} to {after} KiB; {} files open",
        open_files(server.id())
    );
    assert!(whole > CLIENTS as u64 && counts["killed"] > 0 && evictions > 0, "nothing was tried");
    assert!(after < before + 32 * 1024, "memory grew from {before} to {after} KiB");
    assert!(open_files(server.id()) < 40, "descriptors are left");
}
