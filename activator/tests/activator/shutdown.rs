//! `serve` as a process: signals, drain, exit codes.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use activator::{Config, ModelEntry};
use rustix::process::{Pid, Signal};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
};

use crate::{
    client,
    double::{self, Script, Start},
    house::{Files, Watched, chat, open},
    tls,
};

const FOLDER: &str = "ACTIVATOR_TEST_SERVE";
const LISTEN: &str = "ACTIVATOR_TEST_LISTEN";
const IDLE_MS: &str = "ACTIVATOR_TEST_IDLE_MS";

/// No test of its own: `serve` in a process of its own, on the files of a test's folder.
#[test]
fn run() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let config = Config {
        listen: std::env::var(LISTEN).unwrap().parse().unwrap(),
        admin: ([127, 0, 0, 1], 0).into(),
        models: vec![ModelEntry::new("m", folder.join("m.snapshot"))],
        runtime_command: double::command(),
        tls: folder.join("tls.crt").exists().then(|| tls::entry(&folder)),
        idle: Duration::from_millis(std::env::var(IDLE_MS).unwrap().parse().unwrap()),
        ..Config::default()
    };
    // ExitCode cannot be turned into a number; what it would make of this process is what is tested.
    let code = activator::serve(config, None);
    std::process::exit((0..=255).find(|n| std::process::ExitCode::from(*n) == code).unwrap().into());
}

struct Serve {
    child: Child,
    stderr: Lines<BufReader<ChildStderr>>,
    api: SocketAddr,
    admin: SocketAddr,
}

fn spawn(folder: &Path, listen: &str, idle: Duration) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "shutdown::run", "--nocapture"]).env(FOLDER, folder).env(LISTEN, listen);
    command.env(IDLE_MS, idle.as_millis().to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true).spawn().unwrap()
}

impl Serve {
    async fn start(folder: &Path) -> Self {
        Self::with_idle(folder, Duration::from_secs(60)).await
    }

    /// Where both ports are to speak TLS.
    async fn under_tls(folder: &Path) -> Self {
        Self::of(spawn(folder, "127.0.0.1:0", Duration::from_secs(60)), "https").await
    }

    async fn with_idle(folder: &Path, idle: Duration) -> Self {
        Self::of(spawn(folder, "127.0.0.1:0", idle), "http").await
    }

    async fn of(mut child: Child, scheme: &str) -> Self {
        let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
        let admin = announced(&mut stderr, &format!("admin on {scheme}://")).await;
        let api = announced(&mut stderr, &format!("listening on {scheme}://")).await;
        Self { child, stderr, api, admin }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().unwrap() as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    async fn exit_code(mut self) -> Option<i32> {
        while let Ok(Some(_)) = self.stderr.next_line().await {}
        self.child.wait().await.unwrap().code()
    }
}

async fn announced(stderr: &mut Lines<BufReader<ChildStderr>>, what: &str) -> SocketAddr {
    let line = stderr.next_line().await.unwrap().unwrap();
    line.strip_prefix(what).unwrap_or_else(|| panic!("{line}")).parse().unwrap()
}

async fn draining(serve: &Serve) {
    // It takes the signal when it comes to it.
    while client::get(serve.admin, "/readyz").await.status == 200 {}
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

fn gone(pid: i32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn sigterm_fails_readiness_first_serves_who_is_held_and_who_still_comes_and_exits_0() {
    let files = Files::new();
    let gate = files.gate("gate");
    files.write(&files.script(&[Start::Gate(gate.clone())]));
    let serve = Serve::start(files.folder.path()).await;
    let request = || client::request("POST", "/v1/chat/completions", &[], chat("", false).to_string());
    let held = tokio::spawn(client::send(serve.api, request()));
    let pid = files.read("launched").await;
    serve.signal(Signal::TERM);
    draining(&serve).await;
    assert_eq!(client::get(serve.api, "/readyz").await.status, 503);
    assert_eq!(client::get(serve.api, "/livez").await.status, 200);
    let late = tokio::spawn(client::send(serve.api, request()));
    // Both are held before either can be answered.
    while client::get(serve.admin, "/slots").await.json().await[0]["held"] != 2 {}
    open(&gate).await;
    for answer in [held, late] {
        let answer = answer.await.unwrap();
        assert_eq!((answer.status.as_u16(), &answer.headers["connection"]), (200, &"close".parse().unwrap()));
        assert_eq!(answer.json().await["pid"], pid);
    }
    assert_eq!(serve.exit_code().await, Some(0));
    assert!(gone(pid));
}

#[tokio::test]
async fn an_idle_serve_drains_its_runtime_and_exits_0_on_either_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let files = Files::new();
        files.write(&files.script(&[Start::Ready]));
        let serve = Serve::start(files.folder.path()).await;
        let request = client::request("POST", "/v1/chat/completions", &[], chat("", false).to_string());
        assert_eq!(client::send(serve.api, request).await.json().await["path"], "/v1/chat/completions");
        let pid = files.read("launched").await;
        serve.signal(signal);
        assert_eq!(serve.exit_code().await, Some(0));
        assert!(gone(pid));
        for entry in ["asked", "dropped", "draining"] {
            files.read(entry).await;
        }
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once_with_every_runtime() {
    let files = Files::new();
    files.write(&Script { ignores_drain: true, ..files.script(&[Start::Hang]) });
    let serve = Serve::start(files.folder.path()).await;
    let body = chat("", false).to_string();
    let held = tokio::spawn(client::send(serve.api, client::request("POST", "/v1/chat/completions", &[], body)));
    let pid = files.read("launched").await;
    let runtime = Watched::new(pid);
    serve.signal(Signal::TERM);
    draining(&serve).await;
    serve.signal(Signal::INT);
    assert_eq!(serve.exit_code().await, Some(130));
    assert!(gone(pid));
    drop((held, runtime));
}

#[tokio::test]
async fn a_runtime_does_not_outlive_an_activator_that_is_killed() {
    let files = Files::new();
    files.write(&files.script(&[Start::Ready]));
    let mut serve = Serve::start(files.folder.path()).await;
    let request = client::request("POST", "/v1/chat/completions", &[], chat("", false).to_string());
    client::send(serve.api, request).await.text().await;
    let runtime = Watched::new(files.read("launched").await);
    serve.child.kill().await.unwrap();
    runtime.ended().await;
}

#[tokio::test]
async fn resident_memory_does_not_grow_with_cold_and_idle_cycles() {
    let files = Files::new();
    files.write(&files.script(&[Start::Ready]));
    let serve = Serve::with_idle(files.folder.path(), Duration::ZERO).await;
    let cycles = async |cycles| {
        for _ in 0..cycles {
            let request = client::request("POST", "/v1/chat/completions", &[], chat("", false).to_string());
            assert_eq!(client::send(serve.api, request).await.json().await["path"], "/v1/chat/completions");
            assert_eq!(client::get(serve.admin, "/slots/cold/m").await.status, 200);
        }
        resident_kib(serve.child.id().unwrap())
    };
    let (early, late) = (cycles(20).await, cycles(100).await);
    assert!(late < 30 * 1024 && late * 100 <= early * 105, "{early} KiB after 20 cycles, {late} KiB after 120");
    println!("{early} KiB after 20 cycles, {late} KiB after 120");
}

#[tokio::test]
async fn what_keeps_it_from_serving_is_said_with_an_exit_code() {
    let files = Files::new();
    files.write(&files.script(&[Start::Ready]));
    let empty = tempfile::tempdir().unwrap();
    let occupied = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = occupied.local_addr().unwrap().to_string();
    let cases = [
        (files.folder.path(), "127.0.0.1:9090", 64, "9090"),
        (empty.path(), "127.0.0.1:0", 66, "m.snapshot"),
        (files.folder.path(), address.as_str(), 69, address.as_str()),
    ];
    for (folder, listen, code, named) in cases {
        let output = spawn(folder, listen, Duration::ZERO).wait_with_output().await.unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(named), "{stderr}");
    }
}

#[tokio::test]
async fn ports_that_speak_tls_are_announced_as_such() {
    let files = Files::new();
    files.write(&files.script(&[Start::Ready]));
    tls::write(files.folder.path(), &tls::Authority::new().sign("localhost"));
    let serve = Serve::under_tls(files.folder.path()).await;
    serve.signal(Signal::TERM);
    assert_eq!(serve.exit_code().await, Some(0));
}
