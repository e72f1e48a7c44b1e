//! Another process, of a newer program perhaps, takes the ports over (SIGUSR2), and this one ends when it has answered.
//!
//! ```text
//! SIGUSR2 ─► start the same command with the listening sockets ─► it accepts, says so ─► stop accepting, answer what is here, end
//!                                                              └► it ends instead: go on as before
//! ```
//!
//! **Invariant:** at every moment somebody accepts, and who is held or answered here stays here.

use std::{
    ffi::OsString,
    io,
    os::fd::OwnedFd,
    process::{Command, Stdio},
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use tokio::{io::AsyncReadExt, net::unix::pipe};

use crate::sockets::HANDED;

/// Set for a process that succeeds another.
pub const SUCCESSOR: &str = "PILOTLIGHT_SUCCESSOR";

/// It has so long to accept.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// What a successor says once it accepts.
const READY: u8 = b'r';

/// The two listening sockets, to be handed over.
#[derive(Debug)]
pub struct Legacy {
    /// The API's.
    pub api: OwnedFd,
    /// The admin port's.
    pub admin: OwnedFd,
}

impl Legacy {
    fn try_clone(&self) -> io::Result<[OwnedFd; 2]> {
        Ok([self.api.try_clone()?, self.admin.try_clone()?])
    }
}

/// Starts a successor and waits until it accepts. Dropping the future ends it.
///
/// # Errors
/// It does not; nothing has changed.
pub async fn hand_over(command: &[OsString], legacy: &Legacy) -> io::Result<u32> {
    if std::process::id() == 1 {
        return Err(io::Error::other("this is process 1: all others end with it; replace the container instead"));
    }
    let [api, admin] = legacy.try_clone()?;
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let program = command.first().ok_or_else(|| io::Error::other("there is no command to succeed this process"))?;
    let mut process = Command::new(program);
    process.args(&command[1..]).env(SUCCESSOR, "1").stdin(Stdio::null());
    let mappings = [api, admin, theirs].into_iter().zip(HANDED);
    process
        .fd_mappings(mappings.map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd }).collect())
        .map_err(io::Error::other)?;
    let mut successor = Successor(Some(process.spawn()?));
    // The pipe's other end, of which the command still holds a copy.
    drop(process);
    let mut said = [0];
    let mut ours = pipe::Receiver::from_owned_fd(ours)?;
    let read = tokio::time::timeout(READY_WITHIN, ours.read(&mut said)).await;
    match read {
        Ok(Ok(1)) if said == [READY] => Ok(successor.release()),
        Ok(Ok(_)) => Err(io::Error::other("it ended before it accepted")),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(io::Error::other("it did not accept in time")),
    }
}

/// A process that does not accept yet. Dropping it ends it.
struct Successor(Option<std::process::Child>);

impl Successor {
    /// It lives on; its pid.
    fn release(&mut self) -> u32 {
        self.0.take().map_or(0, |child| child.id())
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // One that has ended already is only reaped.
            let _ = child.kill().and_then(|()| child.wait());
        }
    }
}

/// Tells the predecessor that this process accepts.
pub fn say_ready(to: OwnedFd) {
    if let Err(error) = rustix::io::write(&to, &[READY]) {
        tracing::warn!(%error, "the predecessor does not hear that its successor is ready");
    }
}
