//! The real binary as a child process, and waiting for a process's end without polling.

use super::PATIENCE;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

/// A command that runs the binary under test.
pub fn pilotlight() -> Command {
    Command::new(env!("CARGO_BIN_EXE_pilotlight"))
}

/// Sends a signal to a child that has not been waited for.
pub fn signal(child: &Child, signal: Signal) {
    kill_process(pid(child.id()), signal).expect("the child has not been reaped, so its id is its own");
}

/// The child's exit status, or `None` if it still runs after `patience`.
pub fn ended_within(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    if let Some(status) = child.try_wait().unwrap() {
        return Some(status);
    }
    let descriptor = pidfd_open(pid(child.id()), PidfdFlags::empty()).unwrap();
    let timeout = Timespec::try_from(patience).unwrap();
    let ready = poll(&mut [PollFd::new(&descriptor, PollFlags::IN)], Some(&timeout)).unwrap();
    (ready > 0).then(|| child.wait().unwrap())
}

/// Runs a command to its end and returns what it printed, as (exit code, stdout, stderr).
pub fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The children of a process now, as the kernel lists them.
pub fn children(parent: u32) -> Vec<u32> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{parent}/task")) else {
        return Vec::new();
    };
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("children")).ok())
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

/// Resident memory of a process in KiB, or `None` where it is gone.
pub fn resident_kib(id: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse().ok())
}

/// Ends a child for good, whatever it does.
pub fn end(child: &mut Child) {
    if matches!(child.try_wait(), Ok(None)) {
        let _ = child.kill();
        let _ = ended_within(child, PATIENCE);
    }
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap()).unwrap()
}
