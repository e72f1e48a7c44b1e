//! A page of a mapped file that cannot be read: the file was cut short since it was mapped, or its disk fails. The kernel says so by
//! SIGBUS, in the middle of a multiplication. One of the six files of this crate with `unsafe`.
//!
//! **Contract:** the process says what happened and ends with exit code 74, as for any other input that cannot be read. Nothing can be
//! finished then: the weights are gone. Its activator sees the exit, answers who waits, and starts anew with what the file is now.
#![allow(unsafe_code)]

const MESSAGE: &[u8] =
    b"pilotlight runtime: the snapshot cannot be read any more: its file was cut short while it was in use, or its \
    disk fails. Snapshots are replaced by renaming, never changed in place\n";
const EX_IOERR: libc::c_int = 74;

/// From now on.
pub fn say_and_end() {
    // SAFETY: `ended` does nothing but what a handler may do, and stays in the program; zeros are an empty mask and no flags.
    let installed = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ended as extern "C" fn(libc::c_int) as libc::sighandler_t;
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut())
    };
    if installed != 0 {
        tracing::warn!("SIGBUS cannot be handled: a snapshot that is cut short ends this process without a word");
    }
}

extern "C" fn ended(_: libc::c_int) {
    // SAFETY: both may be called in a handler; the message is there for ever.
    unsafe {
        libc::write(libc::STDERR_FILENO, MESSAGE.as_ptr().cast(), MESSAGE.len());
        libc::_exit(EX_IOERR);
    }
}
