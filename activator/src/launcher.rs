//! Starts a runtime process with its two sockets, and nothing else of ours, inherited.
//!
//! **Invariant:** sockets have no path, every descriptor is close-on-exec but the two that are mapped, and the child is
//! in a process group of its own, so that a terminal's Ctrl-C reaches only the activator.

use std::{
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{Command, Stdio},
};

use command_fds::{CommandFdExt, FdMapping};
use protocol::control::{CONTROL_FD, HTTP_FD};
use rustix::process::{Pid, PidfdFlags};

use crate::{
    child::{self, Child, ChildEvents},
    control,
    endpoint::Endpoint,
    slices::Slice,
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
    let (http, their_http) = stream_pair().map_err(LaunchError::Sockets)?;
    let mut process = spawn(command, slice, their_control, their_http)?;
    let pid = Pid::from_child(&process);
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(std::io::Error::from);
    let (child, events) = match pidfd.and_then(|pidfd| child::adopt(pid, pidfd, control)) {
        Ok(adopted) => adopted,
        Err(error) => {
            // Nobody else waits for it. It ends at once.
            let _ = process.kill().and_then(|()| process.wait());
            return Err(LaunchError::Watch(error));
        }
    };
    match Endpoint::connect(http).await {
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

fn stream_pair() -> io::Result<(tokio::net::UnixStream, OwnedFd)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((tokio::net::UnixStream::from_std(ours)?, theirs.into()))
}

fn spawn(
    command: &[OsString],
    slice: Option<&Slice>,
    control: OwnedFd,
    http: OwnedFd,
) -> Result<std::process::Child, LaunchError> {
    let program = &command[0];
    let mut process = Command::new(program);
    process.args(&command[1..]).stdin(Stdio::null()).stdout(Stdio::null()).process_group(0).env_remove(SUCCESSOR);
    if let Some(slice) = slice {
        process.args(slice.arguments()).envs(slice.environment());
    }
    process
        .fd_mappings(vec![
            FdMapping { parent_fd: control, child_fd: CONTROL_FD },
            FdMapping { parent_fd: http, child_fd: HTTP_FD },
        ])
        .expect("the two descriptors differ");
    process.spawn().map_err(|error| LaunchError::Spawn { program: program.clone(), error })
}
