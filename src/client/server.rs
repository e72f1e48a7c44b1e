//! A `pilotlight serve` as a child, for as long as its handle lives.

use crate::exit::{Error, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::VecDeque,
    ffi::OsString,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::{Duration, Instant},
};

/// A server that has not said where it listens by then never will.
const START_MAX: Duration = Duration::from_secs(20);
/// Lines of the server's log kept for the case that it fails.
const LOG_LINES_MAX: usize = 20;
/// A longer line of its log is cut.
const LOG_LINE_BYTES_MAX: u64 = 16 * 1024;

/// What to serve, and how long it stays.
pub struct Options<'a> {
    /// The name to ask for.
    pub model: &'a str,
    /// Its snapshot.
    pub snapshot: &'a Path,
    /// How long it stays after the last request.
    pub idle: Duration,
    /// Processes that wait for a model.
    pub standby: usize,
}

/// The child; dropping it ends it and waits.
pub struct Server {
    child: Child,
    /// Where the API listens.
    pub api: SocketAddr,
    /// Where slots are shown.
    pub admin: SocketAddr,
}

enum Said {
    Admin(SocketAddr),
    Listening(SocketAddr),
    /// Its standard error is at an end; the last lines of it.
    Ended(Vec<String>),
}

impl Server {
    /// Starts the child and waits until it listens.
    pub fn start(options: &Options<'_>) -> Result<Self> {
        let program = std::env::current_exe().map_err(|error| Error::file("finding this program's own file", error))?;
        let mut child = Command::new(program)
            .args(words(options))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| Error::file("starting pilotlight serve", error))?;
        let log = child.stderr.take().expect("standard error was piped two lines above");
        // From here on an early return ends the child.
        let mut server = Self { child, api: ([0, 0, 0, 0], 0).into(), admin: ([0, 0, 0, 0], 0).into() };
        // At most three messages are ever sent.
        let (say, said) = sync_channel(3);
        thread::spawn(move || follow(log, &say));
        server.wait_until_listening(&said)?;
        Ok(server)
    }

    fn wait_until_listening(&mut self, said: &Receiver<Said>) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        loop {
            match said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Said::Admin(address)) => self.admin = address,
                Ok(Said::Listening(address)) => {
                    self.api = address;
                    return Ok(());
                }
                Ok(Said::Ended(lines)) => {
                    return Err(Error::Unavailable(format!("pilotlight serve ended at once:\n{}", lines.join("\n"))));
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    return Err(Error::Unavailable(format!("pilotlight serve did not listen within {START_MAX:?}")));
                }
            }
        }
    }

    /// Asks it to drain and end, and waits for that.
    pub fn stop(mut self) -> Result<()> {
        self.terminate();
        let status = self.child.wait().map_err(|error| Error::file("waiting for pilotlight serve", error))?;
        if status.success() { Ok(()) } else { Err(Error::Unavailable(format!("pilotlight serve ended with {status}"))) }
    }

    fn terminate(&self) {
        let pid = Pid::from_child(&self.child);
        // It may have ended already; it is ours and not yet waited for, so the id cannot mean another process.
        let _ = kill_process(pid, Signal::TERM);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.terminate();
            let _ = self.child.wait();
        }
    }
}

fn words(options: &Options<'_>) -> Vec<OsString> {
    let mut model = OsString::from(format!("{}=", options.model));
    model.push(options.snapshot);
    let idle = format!("{}ms", options.idle.as_millis());
    let parent = std::process::id().to_string();
    let standby = options.standby.to_string();
    let plain = ["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--idle", &idle, "--exit-with", &parent];
    let plain = plain.into_iter().chain(["--standby", &standby]);
    plain.map(OsString::from).chain(["--model".into(), model]).collect()
}

/// Reads the child's standard error to its end, so that it never waits for us.
fn follow(log: ChildStderr, say: &SyncSender<Said>) {
    let mut log = BufReader::new(log);
    let mut last: VecDeque<String> = VecDeque::new();
    let mut line = Vec::new();
    while matches!(log.by_ref().take(LOG_LINE_BYTES_MAX).read_until(b'\n', &mut line), Ok(1..)) {
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        line.clear();
        // The receiver may have all it wanted.
        if let Some(said) = address_in(&text) {
            let _ = say.try_send(said);
        }
        if last.len() == LOG_LINES_MAX {
            last.pop_front();
        }
        last.push_back(text);
    }
    let _ = say.try_send(Said::Ended(last.into()));
}

fn address_in(line: &str) -> Option<Said> {
    let after = |words: &str| line.strip_prefix(words)?.trim_end_matches('/').parse().ok();
    after("admin on http://").map(Said::Admin).or_else(|| after("listening on http://").map(Said::Listening))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_words_are_understood() {
        assert!(matches!(address_in("admin on http://127.0.0.1:9464"), Some(Said::Admin(a)) if a.port() == 9464));
        assert!(matches!(address_in("listening on http://[::1]:80"), Some(Said::Listening(a)) if a.port() == 80));
        assert!(address_in("listening on http://nowhere").is_none());
        assert!(address_in(r#"{"level":"INFO"}"#).is_none());
    }
}
