//! A running activator with one model, `m`, in a folder of its own.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use activator::{Activator, Config, ModelEntry};
use rustix::process::{Pid, PidfdFlags, Signal};
use serde_json::{Value, json};
use tokio::net::UnixDatagram;

use crate::{
    client::{self, Answer},
    double::{self, Script, Start},
};

/// Longer than anything takes. Reaching it fails the test.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct House {
    pub activator: Activator,
    pub files: Files,
}

/// The model's "snapshot" and what its double writes.
pub struct Files {
    pub folder: tempfile::TempDir,
    diary: UnixDatagram,
}

impl Files {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let diary = UnixDatagram::bind(folder.path().join("diary")).unwrap();
        Self { folder, diary }
    }

    pub fn snapshot(&self) -> PathBuf {
        self.folder.path().join("m.snapshot")
    }

    pub fn script(&self, starts: &[Start]) -> Script {
        Script {
            diary: self.folder.path().join("diary"),
            lives: self.folder.path().join("lives"),
            starts: starts.to_vec(),
            drain_gate: None,
            ignores_drain: false,
        }
    }

    pub fn write(&self, script: &Script) {
        std::fs::write(self.snapshot(), serde_json::to_vec(script).unwrap()).unwrap();
    }

    pub fn config(&self) -> Config {
        Config {
            listen: ([127, 0, 0, 1], 0).into(),
            admin: ([127, 0, 0, 1], 0).into(),
            models: vec![ModelEntry::new("m", self.snapshot())],
            runtime_command: double::command(),
            ..Config::default()
        }
    }

    /// The double's next entry, which must be this; its pid.
    pub async fn read(&self, expected: &str) -> i32 {
        let (what, pid) = self.next_entry().await.unwrap_or_else(|| panic!("the double never wrote '{expected}'"));
        assert_eq!(what, expected);
        pid
    }

    /// The double's next entries, which must be these, sorted.
    pub async fn read_in_any_order<const N: usize>(&self, expected: [&str; N]) {
        let mut entries = Vec::new();
        for _ in 0..N {
            let entry = self.next_entry().await;
            entries.push(entry.unwrap_or_else(|| panic!("only {entries:?} of {expected:?}")).0);
        }
        entries.sort();
        assert_eq!(entries, expected);
    }

    /// What the double wrote, and its pid.
    async fn next_entry(&self) -> Option<(String, i32)> {
        let mut entry = [0; 100];
        let bytes = tokio::time::timeout(PATIENCE, self.diary.recv(&mut entry)).await.ok()?.unwrap();
        let (what, pid) = std::str::from_utf8(&entry[..bytes]).unwrap().rsplit_once(' ').unwrap();
        Some((what.to_owned(), pid.parse().unwrap()))
    }

    /// How many runtimes have begun.
    pub fn lives(&self) -> usize {
        std::fs::metadata(self.folder.path().join("lives")).map_or(0, |file| file.len() as usize)
    }

    /// A place where a double waits until [`open`].
    pub fn gate(&self, name: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        path
    }
}

/// Lets the double pass; waits until it is there.
pub async fn open(gate: &Path) {
    let gate = gate.to_owned();
    let opened = tokio::task::spawn_blocking(|| std::fs::File::options().write(true).open(gate));
    tokio::time::timeout(PATIENCE, opened).await.unwrap().unwrap().unwrap();
}

pub fn chat(user: &str, stream: bool) -> Value {
    json!({"model": "m", "user": user, "stream": stream, "messages": [{"role": "user", "content": "hi"}]})
}

/// A process, to be watched even after its end.
pub struct Watched(rustix::fd::OwnedFd);

impl Watched {
    pub fn new(pid: i32) -> Self {
        Self(rustix::process::pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap())
    }

    /// Waits for its end; it is another's to reap.
    pub async fn ended(&self) {
        let pidfd = self.0.try_clone().unwrap();
        let ended = tokio::task::spawn_blocking(move || {
            let mut pidfd = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
            rustix::event::poll(&mut pidfd, None).unwrap();
        });
        tokio::time::timeout(PATIENCE, ended).await.expect("the process never ended").unwrap();
    }

    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::pidfd_send_signal(&self.0, signal).unwrap();
    }
}

impl House {
    pub async fn new(starts: &[Start]) -> Self {
        Self::with(starts, |_, _| {}).await
    }

    /// With a changed script or configuration.
    pub async fn with(starts: &[Start], change: impl FnOnce(&mut Script, &mut Config)) -> Self {
        let files = Files::new();
        let (mut script, mut config) = (files.script(starts), files.config());
        change(&mut script, &mut config);
        files.write(&script);
        Self { activator: Activator::start(config).await.unwrap(), files }
    }

    pub async fn get(&self, path: &str) -> Answer {
        client::get(self.activator.api(), path).await
    }

    pub async fn admin(&self, path: &str) -> Answer {
        client::get(self.activator.admin(), path).await
    }

    pub async fn ask(&self, body: &Value) -> Answer {
        self.ask_with(&[], body).await
    }

    pub async fn ask_with(&self, headers: &[(&str, &str)], body: &Value) -> Answer {
        let request = client::request("POST", "/v1/chat/completions", headers, body.to_string());
        let answer = client::send(self.activator.api(), request);
        tokio::time::timeout(PATIENCE, answer).await.expect("no answer")
    }

    /// The slot as `/slots` says.
    pub async fn slot(&self) -> Value {
        self.admin("/slots").await.json().await[0].clone()
    }

    /// The slot once it is in this state.
    pub async fn slot_when(&self, state: &str) -> Value {
        let answer = self.admin(&format!("/slots/{state}/m")).await;
        assert_eq!(answer.status, 200, "the slot never became {state}");
        answer.json().await[0].clone()
    }

    /// Waits until so many runtimes have begun.
    pub async fn until_lives(&self, lives: usize) {
        let seen = async {
            while self.files.lives() < lives {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("never {lives} lives"));
    }

    /// Waits until the slot has so many processes.
    pub async fn until_replicas(&self, count: usize) {
        let seen = async { while self.slot().await["replicas"].as_array().unwrap().len() != count {} };
        tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("never {count} processes"));
    }

    /// Waits until `/slots` says this of the slot.
    pub async fn until(&self, field: &str, expected: impl Into<Value>) {
        let expected = expected.into();
        let seen = async { while self.slot().await[field] != expected {} };
        tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("{field} never became {expected}"));
    }
}
