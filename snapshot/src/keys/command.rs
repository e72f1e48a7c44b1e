//! The operator's key behind a program, e.g. one that asks a key management service.
//!
//! **Contract:** the program ends within [`PATIENCE`] or is killed; what it prints is bounded; what it says on standard error is part of the
//! message where it fails, and the key is not.

use super::{DataKey, WRAPPED_KEY_BYTES_MAX, from_hex};
use crate::{Error, hex};
use rustix::process::{Pid, Signal, kill_process_group};
use std::{
    io::{self, Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(30);
const LOOKS_EVERY: Duration = Duration::from_millis(2);
/// Of what it says where it fails.
const WORDS_BYTES_MAX: u64 = 512;

#[derive(Clone)]
pub(super) struct KeyCommand {
    program: PathBuf,
}

impl KeyCommand {
    pub(super) fn new(program: &Path) -> Self {
        Self { program: program.into() }
    }

    pub(super) fn wrap(&self, key: &DataKey, digest: &[u8; 32]) -> Result<String, Error> {
        let wrapped = self.run("wrap", digest, format!("{}\n", hex(&key.0)).as_bytes())?;
        if wrapped.trim().is_empty() {
            return Err(self.failed("wrap", "it printed nothing"));
        }
        Ok(wrapped)
    }

    pub(super) fn unwrap(&self, wrapped: &[u8], digest: &[u8; 32]) -> Result<DataKey, Error> {
        let key = self.run("unwrap", digest, wrapped)?;
        let key = from_hex(key.trim().as_bytes()).and_then(|key| key.try_into().ok());
        key.map(DataKey).ok_or_else(|| self.failed("unwrap", "it printed something else than 64 hexadecimal digits"))
    }

    fn run(&self, verb: &str, digest: &[u8; 32], input: &[u8]) -> Result<String, Error> {
        let io = |error: io::Error| self.failed(verb, &error.to_string());
        let mut command = Command::new(&self.program);
        command.arg(verb).arg(hex(digest)).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // What it starts ends with it, and holds no pipe open.
        let mut child = Running(command.process_group(0).spawn().map_err(io)?);
        let (Some(mut stdin), Some(out), Some(words)) =
            (child.0.stdin.take(), child.0.stdout.take(), child.0.stderr.take())
        else {
            return Err(self.failed(verb, "it has no standard streams"));
        };
        thread::scope(|scope| {
            let out = scope.spawn(|| read(out, WRAPPED_KEY_BYTES_MAX as u64 + 1));
            let words = scope.spawn(|| read(words, WORDS_BYTES_MAX));
            // A program that does not want to know is judged by what it prints.
            let _ = stdin.write_all(input);
            drop(stdin);
            let ended = child.wait();
            drop(child);
            let join = |reader: thread::ScopedJoinHandle<'_, Vec<u8>>| reader.join().unwrap_or_default();
            let (out, words) = (join(out), join(words));
            match ended.map_err(io)? {
                None => Err(self.failed(verb, &format!("it was not done within {} s", PATIENCE.as_secs()))),
                Some(status) if !status.success() => {
                    let words = String::from_utf8_lossy(&words);
                    Err(self.failed(verb, &format!("{status}: {}", words.trim())))
                }
                Some(_) if out.len() > WRAPPED_KEY_BYTES_MAX => {
                    Err(self.failed(verb, &format!("it printed more than {WRAPPED_KEY_BYTES_MAX} bytes")))
                }
                Some(_) => String::from_utf8(out).map_err(|_| self.failed(verb, "what it printed is no text")),
            }
        })
    }

    fn failed(&self, verb: &str, problem: &str) -> Error {
        Error::Key { problem: format!("{} {verb}: {problem}", self.program.display()) }
    }
}

/// At most `limit` bytes; the rest is read and dropped, so that who writes is not stopped.
fn read(mut from: impl Read, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = from.by_ref().take(limit).read_to_end(&mut bytes);
    let _ = io::copy(&mut from, &mut io::sink());
    bytes
}

/// Killed with all it has started, and reaped, when it is dropped.
struct Running(Child);

impl Running {
    /// How it ended; `None` where it was too slow.
    fn wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.0.try_wait()? {
                return Ok(Some(status));
            }
            thread::sleep(LOOKS_EVERY);
        }
        Ok(None)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.0.wait();
    }
}
