//! The descriptors a runtime is launched with. One of the six files of this crate with `unsafe`.
#![allow(unsafe_code)]

use protocol::control::{CONTROL_FD, HTTP_FD};
use rustix::io::{FdFlags, fcntl_setfd};
use std::{
    io,
    os::fd::{BorrowedFd, FromRawFd, OwnedFd},
};

/// Control and HTTP socket, owned from now on and not inherited further. To be called once, at the process's start.
///
/// # Errors
/// Where the process was not launched with them.
pub fn inherited() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok((take(CONTROL_FD)?, take(HTTP_FD)?))
}

fn take(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: borrowed for this call only, which fails with EBADF and does nothing where the number is not open.
    fcntl_setfd(unsafe { BorrowedFd::borrow_raw(fd) }, FdFlags::CLOEXEC)?;
    // SAFETY: it is open, as just seen. By the launch contract it was passed for this process to own, and nothing else
    // in it knows the number: this runs once, before anything opens descriptors.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
