//! A launched runtime process: its pid descriptor, its control socket, and what it says until its exit is seen.
//!
//! **Invariant:** a child is reaped exactly once, here, and its exit is the last of its events. Nothing polls: messages
//! come by readiness of the socket, the exit by readiness of the pid descriptor.

use std::{
    collections::VecDeque,
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use protocol::control::{FromRuntime, ToRuntime};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus};
use tokio::io::unix::AsyncFd;

use crate::{control::Control, watched};

/// What a child does.
#[derive(Debug)]
pub enum ChildEvent {
    /// It said something.
    Said(FromRuntime),
    /// Its control socket broke or closed; it says nothing more.
    Silent(io::Result<()>),
    /// It is gone, and reaped.
    Exited(Exit),
}

/// How a child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// For people: `exited with code 9`.
    pub said: String,
    /// Somebody outside ended it by SIGKILL, and not the kernel for want of memory: no request is to blame.
    pub by_others: bool,
}

/// The owner's handle: to tell the child something, or to end it.
#[derive(Clone, Debug)]
pub struct Child {
    pid: Pid,
    pidfd: Arc<AsyncFd<OwnedFd>>,
    control: Arc<Control>,
}

/// The other half: what the child does, in order.
#[derive(Debug)]
pub struct ChildEvents {
    child: Child,
    said: VecDeque<ChildEvent>,
    listening: bool,
    exit: Option<Exit>,
    ended: bool,
    /// The kernel's count of processes that it ended for want of memory, as it was when this one began.
    out_of_memory: Option<u64>,
}

/// Adopts a process that was just spawned by us and that nobody else waits for.
pub fn adopt(pid: Pid, pidfd: OwnedFd, control: Control) -> io::Result<(Child, ChildEvents)> {
    let child = Child { pid, pidfd: Arc::new(watched::readable(pidfd)?), control: Arc::new(control) };
    let events = ChildEvents {
        child: child.clone(),
        said: VecDeque::new(),
        listening: true,
        exit: None,
        ended: false,
        out_of_memory: out_of_memory(),
    };
    Ok((child, events))
}

impl Child {
    /// The process id, for people.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends a control message.
    pub fn tell(&self, message: &ToRuntime, descriptor: Option<&OwnedFd>) -> io::Result<()> {
        self.control.send(message, descriptor)
    }

    /// SIGKILL. A child that is already gone is no error: its exit is on its way.
    pub fn kill(&self) {
        if let Err(error) = rustix::process::pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL)
            && error != rustix::io::Errno::SRCH
        {
            tracing::error!(pid = self.pid(), %error, "cannot kill a runtime");
        }
    }

    /// Waits until it is gone, reaped or not.
    pub async fn gone(&self) {
        // Who cannot be watched is taken for gone never.
        if self.pidfd.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    async fn exited(&self) -> io::Result<(String, bool)> {
        let _ready = self.pidfd.readable().await?;
        let status = rustix::process::waitid(WaitId::PidFd(self.pidfd.get_ref().as_fd()), WaitIdOptions::EXITED)?;
        let killed = status.as_ref().and_then(WaitIdStatus::terminating_signal) == Some(Signal::KILL.as_raw());
        Ok((status.map_or_else(|| "vanished".to_owned(), |status| describe(&status)), killed))
    }
}

/// How many processes the kernel has ended for want of memory, the machine's or a group's.
fn out_of_memory() -> Option<u64> {
    let counts = std::fs::read_to_string("/proc/vmstat").ok()?;
    counts.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

fn describe(status: &WaitIdStatus) -> String {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

impl ChildEvents {
    /// The next event; `None` after [`ChildEvent::Exited`]. Cancel-safe.
    pub async fn next(&mut self) -> Option<ChildEvent> {
        loop {
            if let Some(event) = self.said.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            if let Some(status) = self.exit.take() {
                self.ended = true;
                return Some(ChildEvent::Exited(status));
            }
            tokio::select! {
                biased;
                said = self.child.control.recv(), if self.listening => self.hear(said),
                status = self.child.exited() => {
                    self.hear_rest();
                    let (said, killed) = status.unwrap_or_else(|error| (format!("is lost: {error}"), false));
                    // Where the kernel does not count, nobody can tell.
                    let by_others = killed && self.out_of_memory.is_some() && self.out_of_memory == out_of_memory();
                    self.exit = Some(Exit { said, by_others });
                }
            }
        }
    }

    fn hear(&mut self, said: io::Result<Option<FromRuntime>>) {
        let event = match said {
            Ok(Some(message)) => ChildEvent::Said(message),
            Ok(None) => ChildEvent::Silent(Ok(())),
            Err(error) => ChildEvent::Silent(Err(error)),
        };
        self.listening = matches!(event, ChildEvent::Said(_));
        self.said.push_back(event);
    }

    /// A last word, such as why it failed, may still lie in the socket when the exit is seen.
    fn hear_rest(&mut self) {
        while self.listening {
            match self.child.control.try_recv() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                said => self.hear(said),
            }
        }
    }
}
