//! A model's process, seen from outside: alive while the slot has it, gone when the slot is cold.

use super::{Chat, Server, http};
use crate::exit::{Error, Result};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde_json::Value;
use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

/// From the end of a process to the slot that says so: only messages inside the server lie between.
const COLD_AFTER_EXIT_MAX: Duration = Duration::from_secs(5);
/// How often the slot is looked at in that time.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// One runtime process, from outside.
pub struct Life {
    /// Its id.
    pub pid: i32,
    process: OwnedFd,
}

impl Server {
    /// Asks `model` one question; see [`Chat`].
    pub fn chat(
        &self,
        model: &str,
        question: &str,
        tokens_max: u32,
        piece: &mut dyn FnMut(&str) -> Result<()>,
    ) -> Result<Chat> {
        block_on(http::chat(self.api, model, question, tokens_max, piece))
    }

    /// The process that serves `model` now.
    pub fn life(&self, model: &str) -> Result<Life> {
        let slot = self.slot(model)?;
        let pid = slot["replicas"][0]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok());
        let pid = pid.ok_or_else(|| Error::Unavailable(format!("the slot of {model} has no process: {slot}")))?;
        let id = Pid::from_raw(pid).ok_or_else(|| Error::Data("the slot names process 0".into()))?;
        let process = pidfd_open(id, PidfdFlags::empty()).map_err(|error| {
            Error::Unavailable(format!("process {pid}, which the slot names, is not there: {error}"))
        })?;
        Ok(Life { pid, process })
    }

    /// Waits until `life` has ended and the slot of `model` says `cold`.
    pub fn wait_until_cold(&self, model: &str, life: &Life, at_most: Duration) -> Result<()> {
        life.wait(at_most)?;
        let deadline = Instant::now() + COLD_AFTER_EXIT_MAX;
        loop {
            let slot = self.slot(model)?;
            if slot["state"] == "cold" {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Error::Unavailable(format!("process {} is gone, but its slot says {slot}", life.pid)));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn slot(&self, model: &str) -> Result<Value> {
        let slots = block_on(http::get(self.admin, "/slots"))?;
        find(&slots, model).cloned().ok_or_else(|| Error::Data(format!("/slots does not name {model}: {slots}")))
    }
}

/// `/slots` is a list.
fn find<'a>(slots: &'a Value, model: &str) -> Option<&'a Value> {
    slots.as_array()?.iter().find(|slot| slot["name"] == model)
}

impl Life {
    fn wait(&self, at_most: Duration) -> Result<()> {
        let timeout = Timespec {
            tv_sec: at_most.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: at_most.subsec_nanos().into(),
        };
        let mut ended = [PollFd::new(&self.process, PollFlags::IN)];
        match poll(&mut ended, Some(&timeout)) {
            Ok(0) => Err(Error::Unavailable(format!("process {} is still there after {at_most:?}", self.pid))),
            Ok(_) => Ok(()),
            Err(error) => Err(Error::file(format!("waiting for the end of process {}", self.pid), error.into())),
        }
    }
}

/// One request at a time needs no threads.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build();
    tokio.map_err(|error| Error::file("starting the client", error))?.block_on(work)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::process::Command;

    fn life_of(child: &std::process::Child) -> Life {
        let process = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).unwrap();
        Life { pid: i32::try_from(child.id()).unwrap(), process }
    }

    #[test]
    fn the_end_of_a_process_is_seen_and_its_life_too() {
        let mut child = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let life = life_of(&child);
        assert_eq!(life.wait(Duration::ZERO).unwrap_err().code(), 69);
        drop(child.stdin.take());
        life.wait(Duration::from_secs(60)).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_slot_is_found_by_its_name() {
        let list = serde_json::json!([{"name": "a", "state": "cold"}, {"name": "b", "state": "ready"}]);
        assert_eq!(find(&list, "b").unwrap()["state"], "ready");
        assert!(find(&list, "c").is_none());
    }
}
