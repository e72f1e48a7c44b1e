//! Starts a runtime process with its two sockets, and nothing else of ours, inherited.
//!
//! **Invariant:** sockets have no path, every descriptor is close-on-exec but the two that are mapped, and the child is
//! in a process group of its own, so that a terminal's Ctrl-C reaches only the activator.

use std::{ffi::OsString, io, os::fd::OwnedFd};

use local_socket::LocalStream;
use protocol::control::{CONTROL_FD, HTTP_FD};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};

use crate::{
    child::{self, Child, ChildEvents},
    control,
    endpoint::Endpoint,
    slices::Slice,
    spawn::spawn,
    succession::SUCCESSOR,
};

/// Why no runtime could be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Sockets or descriptors.
    #[error("cannot make a runtime's sockets: {0}")]
    Sockets(#[source] io::Error),
    /// The program.
    #[error("cannot execute {program:?}: {error}")]
    Spawn {
        /// The program.
        program: OsString,
        /// What the system said.
        error: io::Error,
    },
    /// The pid descriptor.
    #[error("cannot watch the runtime: {0}")]
    Watch(#[source] io::Error),
}

/// A runtime that has been started; it has no model yet.
#[derive(Debug)]
pub struct Launched {
    /// The process.
    pub child: Child,
    /// What it does.
    pub events: ChildEvents,
    /// Where requests go once it is ready.
    pub endpoint: Endpoint,
}

/// Starts `command` (a program and its arguments, not empty) on a slice: it is told its cores and memory, and sees no other GPU. `None`: it has
/// what this process has.
pub async fn launch(command: &[OsString], slice: Option<&Slice>) -> Result<Launched, LaunchError> {
    let (control, their_control) = control::pair().map_err(LaunchError::Sockets)?;
    let (http, their_http) = LocalStream::pair().map_err(LaunchError::Sockets)?;
    let pid = start(command, slice, [(their_control, CONTROL_FD), (their_http, HTTP_FD)])?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(std::io::Error::from);
    let (child, events) = match pidfd.and_then(|pidfd| child::adopt(pid, pidfd, control)) {
        Ok(adopted) => adopted,
        Err(error) => {
            // Nobody else waits for it. It ends at once.
            let killed = rustix::process::kill_process(pid, Signal::KILL);
            let _ = killed.and_then(|()| rustix::process::waitpid(Some(pid), WaitOptions::empty()));
            return Err(LaunchError::Watch(error));
        }
    };
    match Endpoint::connect(http, child.clone()).await {
        Ok(endpoint) => Ok(Launched { child, events, endpoint }),
        Err(error) => {
            // It died before it was a runtime. Nobody else waits for it.
            child.kill();
            tokio::spawn(reap(events));
            Err(LaunchError::Sockets(error))
        }
    }
}

async fn reap(mut events: ChildEvents) {
    while events.next().await.is_some() {}
}

fn start(command: &[OsString], slice: Option<&Slice>, sockets: [(OwnedFd, i32); 2]) -> Result<Pid, LaunchError> {
    let more = slice.map(Slice::arguments).unwrap_or_default();
    let own = slice.map(Slice::environment).unwrap_or_default();
    let is_own = |name: &OsString| name == SUCCESSOR || own.iter().any(|(own, _)| name == own);
    let inherited = std::env::vars_os().filter(|(name, _)| !is_own(name));
    let environment = inherited.chain(own.iter().map(|(name, value)| (name.into(), value.into())));
    spawn(&[command, &more].concat(), environment, &sockets)
        .map_err(|error| LaunchError::Spawn { program: command[0].clone(), error })
}
