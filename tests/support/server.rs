//! `pilotlight serve` (or `run`) as a test's own child: started on ports that the system picks, ended with the test.

use super::client::{self, Body, Response};
use super::process::{self, end, ended_within, pilotlight};
use super::{PATIENCE, until};
use rustix::process::Signal;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};

/// A running server. Dropping it kills it; [`Serve::terminate`] asks it to drain.
pub struct Serve {
    child: Child,
    /// Where clients ask.
    pub api: SocketAddr,
    /// Where operators look; the same as `api` for a runtime alone.
    pub admin: SocketAddr,
    log: Arc<Mutex<Vec<String>>>,
}

impl Serve {
    /// `pilotlight serve` with these further arguments, on free ports.
    pub fn start(arguments: &[&str]) -> Self {
        let mut command = pilotlight();
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).args(arguments);
        Self::spawn(command)
    }

    /// Any command that serves and says so on standard error, as `serve` and `run` do.
    ///
    /// # Panics
    /// Where it ends or stays silent instead, showing what it wrote.
    pub fn spawn(command: Command) -> Self {
        let name = format!("{command:?}");
        Self::try_spawn(command).unwrap_or_else(|(_, said)| panic!("{name} announced no address:\n{said}"))
    }

    /// The same, for a command that may refuse: then its exit code and what it wrote.
    pub fn try_spawn(mut command: Command) -> Result<Self, (Option<i32>, String)> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let (log, lines) = collect(child.stderr.take().unwrap());
        let Some((api, admin)) = announced(&lines) else {
            let code = ended_within(&mut child, PATIENCE).and_then(|status| status.code());
            end(&mut child);
            return Err((code, log.lock().unwrap().join("\n")));
        };
        Ok(Self { child, api, admin, log })
    }

    /// The process's id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to standard error so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// GET on the API port.
    pub fn get(&self, path: &str) -> Response {
        client::request(self.api, "GET", path, &[], b"").unwrap()
    }

    /// A number of `/metrics`, by its name and labels without the prefix; 0 where it is not there yet.
    pub fn metric(&self, name: &str) -> u64 {
        let text = self.admin("/metrics").text();
        let number = |line: &str| line.strip_prefix("pilotlight_")?.strip_prefix(name)?.trim().parse().ok();
        text.lines().find_map(number).unwrap_or(0)
    }

    /// GET on the admin port.
    pub fn admin(&self, path: &str) -> Response {
        client::request(self.admin, "GET", path, &[], b"").unwrap()
    }

    /// POST of a JSON body on the API port.
    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.open(path, body).finish().unwrap()
    }

    /// The same, its body still to be read.
    pub fn open(&self, path: &str, body: &Value) -> Body {
        client::open(self.api, "POST", path, JSON, body.to_string().as_bytes()).unwrap()
    }

    /// The slot of this model, as `/slots` says, or null.
    pub fn slot(&self, model: &str) -> Value {
        let slots = self.admin("/slots").json();
        let list = slots.as_array().or_else(|| slots["slots"].as_array()).cloned().unwrap_or_default();
        list.into_iter().find(|slot| slot["name"] == model).unwrap_or_default()
    }

    /// Waits until the slot of this model is in this state, and returns it.
    pub fn until_slot(&self, model: &str, state: &str) -> Value {
        until(&format!("slot {model} is {state}"), || Some(self.slot(model)).filter(|slot| slot["state"] == state))
    }

    /// Sends SIGTERM, without waiting.
    pub fn terminate(&self) {
        process::signal(&self.child, Signal::TERM);
    }

    /// Waits for the end that was asked for.
    pub fn wait(&mut self) -> ExitStatus {
        ended_within(&mut self.child, PATIENCE).unwrap_or_else(|| panic!("still running:\n{}", self.log()))
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        end(&mut self.child);
        if std::thread::panicking() {
            eprintln!("--- standard error of the server ---\n{}", self.log());
        }
    }
}

/// Headers of a JSON body.
pub const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

/// Keeps every line for [`Serve::log`], and passes each on until nobody listens any more.
fn collect(from: impl Read + Send + 'static) -> (Arc<Mutex<Vec<String>>>, Receiver<String>) {
    let log = Arc::new(Mutex::new(Vec::new()));
    let (sender, receiver) = channel();
    let kept = Arc::clone(&log);
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            kept.lock().unwrap().push(line.clone());
            let _ = sender.send(line);
        }
    });
    (log, receiver)
}

/// "Every address" is no address that a client could ask.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    address
}

/// The addresses in `admin on http://…` and `listening on http://…`; the latter comes last.
fn announced(lines: &Receiver<String>) -> Option<(SocketAddr, SocketAddr)> {
    let mut admin = None;
    loop {
        let line = lines.recv_timeout(PATIENCE).ok()?;
        let address = |prefix| line.trim().strip_prefix(prefix).and_then(|rest| rest.parse().ok()).map(reachable);
        admin = admin.or_else(|| address("admin on http://"));
        if let Some(api) = address("listening on http://") {
            return Some((api, admin.unwrap_or(api)));
        }
    }
}
