//! Confinement: what a runtime gives up once it has been launched and has its descriptors, before it reads anything that is not its operator's
//! (a snapshot, a request). Who gets it to run instructions of theirs finds a process that can compute, answer and nothing else.
//!
//! | | on a CPU | with a key program, `--decrypt-key command:` | on a CUDA or Vulkan device |
//! |---|---|---|---|
//! | files | within the KV folder, if there is one (Landlock) | none once the key is there; with a KV folder those its user may open | those its user may open: drivers are loaded from files |
//! | sockets | the two it was launched with | the same, once the key is there | and Unix ones, which drivers use |
//! | programs | none | none, once the key is there | any: drivers run helpers |
//! | signals to other processes, modes and owners of files | none | none, once the key is there | any |
//! | other processes' memory, namespaces, mounts, kernel modules, keyrings, BPF, io_uring, … ([`filter`]) | none | none, once the key is there | none |
//! | privileges of programs it executes (`no_new_privs`) | none | as its own, until the key is there | none |
//! | core files, being traced by its user, more than [`DESCRIPTORS_MAX`] descriptors | none | none | none |
//!
//! A key program is unrestricted, since it may need anything: it talks to a key service. So the rest comes when it has answered, which is
//! before anything but the snapshot's header is read; Landlock, which does not reach threads that exist, does not come at all then.
//! Devices: not run on a GPU.
//!
//! **Contract:** [`at_launch`] is called while the process has one thread, so that all others inherit what it gives up; there is no way back.
//! **Failure:** a kernel (or a container's own confinement) that lacks something keeps nobody from an answer: the rest is done, one warning
//! names what is missing, and so does `pilotlight doctor`. Without Landlock, files are refused by the filter where there is no KV folder.
//! **Absent:** control groups, user and network namespaces, other users: those are the platform's. `pilotlight run` is not confined.
//!
//! On kernels before 5.16 a filter also turns on the processor's mitigations of speculation for this process, which may cost speed.

mod files;
mod filter;

use crate::Options;
use filter::Allowed;
use models::ComputeDevice;
use rustix::{
    process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit},
    thread::set_no_new_privs,
};
use std::{io, os::fd::AsFd};

/// Descriptors that may be open at once: far more than a runtime needs, a driver's included.
const DESCRIPTORS_MAX: u64 = 1024;

/// How far this kernel confines a runtime.
#[derive(Clone, Debug)]
pub struct Given {
    /// System calls are refused; or why not.
    pub seccomp: Result<(), String>,
    /// Landlock's version (its ABI) that confines files; or why it does not.
    pub landlock: Result<i32, String>,
}

/// Tries it on a thread that then ends. What `pilotlight doctor` says.
pub fn probe() -> Given {
    let look = || {
        let landlock = files::only_within(None);
        Given { landlock, seccomp: filter::install(Allowed { files: true, driver: false }, filter::Threads::This) }
    };
    let gone = || "the thread that tried it panicked".to_owned();
    std::thread::spawn(look).join().unwrap_or_else(|_| Given { seccomp: Err(gone()), landlock: Err(gone()) })
}

/// Gives up what `options` leave no need for. To be called before threads start.
pub fn at_launch(options: &Options) {
    if let Err(error) = limits() {
        tracing::warn!(%error, "this runtime may leave core files, or be traced");
    }
    if asks_program(options) {
        tracing::info!("confined once the key program has answered: until then sockets, files and programs are open");
        return;
    }
    if let Err(error) = set_no_new_privs(true) {
        tracing::warn!(%error, "programs may gain privileges");
    }
    let landlock = match on_device(options) {
        true => Err("drivers are loaded from files".to_owned()),
        false => files::only_within(options.kv_folder.as_ref().map(|folder| folder.as_fd())),
    };
    refuse(options, landlock);
}

/// The rest, where a key program had to run first; nothing where none had to.
pub fn once_unwrapped(options: &Options) {
    if options.confined && asks_program(options) {
        refuse(options, Err("there are threads already, which it does not reach".to_owned()));
    }
}

/// Refuses system calls on all threads, and says how far the process is confined then.
fn refuse(options: &Options, landlock: Result<i32, String>) {
    let driver = on_device(options);
    let by_filter = landlock.is_err() && options.kv_folder.is_none() && !driver;
    let seccomp = filter::install(Allowed { files: !by_filter, driver }, filter::Threads::All);
    let expected = driver || asks_program(options);
    match (&seccomp, &landlock) {
        (Err(error), _) => tracing::warn!(
            error,
            ?landlock,
            "not confined but by Landlock, if at all: the kernel refuses no system calls"
        ),
        (Ok(()), Err(error)) if !by_filter && !expected => {
            tracing::warn!(error, "confined but for files: no Landlock; `pilotlight doctor` says more");
        }
        (Ok(()), Err(why)) => tracing::info!(files_refused = by_filter, why, "confined without Landlock"),
        (Ok(()), Ok(abi)) => tracing::debug!(landlock = abi, "confined"),
    }
}

/// What its memory holds is prompts and weights: neither the kernel nor another process of the same user writes or reads it. The limit on
/// core files does not hold for those that are piped to a program, the second word does.
fn limits() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let now = getrlimit(Resource::Nofile);
    let at_most = |limit: Option<u64>| Some(limit.unwrap_or(u64::MAX).min(DESCRIPTORS_MAX));
    setrlimit(Resource::Nofile, Rlimit { current: at_most(now.current), maximum: at_most(now.maximum) })?;
    Ok(())
}

fn asks_program(options: &Options) -> bool {
    options.decrypt_key.as_ref().is_some_and(snapshot::OperatorKey::is_program)
}

fn on_device(options: &Options) -> bool {
    options.device != ComputeDevice::Cpu
}

#[cfg(test)]
mod tests;
