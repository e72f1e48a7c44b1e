//! What this process gets of the machine: cores and memory, where it is put on a slice.
//!
//! **Contract:** [`Share::take`] is called first, while the process has one thread: all later ones run on these cores, and as many compute as there
//! are of them. There is no way back for memory.
//!
//! The memory is `RLIMIT_DATA`: what the process can have to itself (keys and values, intermediate results, stacks, a decrypted snapshot), counted
//! when it is asked for. Pages of a mapped snapshot are the page cache's and are not counted. Who asks for more gets none, which ends the process
//! and nobody else's.

use rustix::{
    process::{Resource, Rlimit, getrlimit, setrlimit},
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};
use std::io;

/// A part of the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Numbers of cores; empty: all that there are.
    pub cores: Vec<usize>,
    /// Private memory at most; `None`: as much as there is.
    pub memory_bytes: Option<u64>,
}

impl Share {
    /// Has this process use no more than that.
    ///
    /// # Errors
    /// In words: a core that it may not use, or the system refuses.
    pub fn take(&self) -> Result<(), String> {
        if !self.cores.is_empty() {
            run_on(&self.cores)?;
        }
        if let Some(bytes) = self.memory_bytes {
            hold_to(bytes)
                .map_err(|error| format!("this process cannot be held to {bytes} bytes of memory: {error}"))?;
        }
        Ok(())
    }
}

fn run_on(cores: &[usize]) -> Result<(), String> {
    let failed = |error: io::Error| format!("this process cannot be put on the cores {cores:?}: {error}");
    let mut set = CpuSet::new();
    for core in cores {
        if *core >= CpuSet::MAX_CPU {
            return Err(failed(io::Error::other(format!("there are none above {}", CpuSet::MAX_CPU - 1))));
        }
        set.set(*core);
    }
    sched_setaffinity(None, &set).map_err(|error| failed(error.into()))?;
    // The kernel leaves out without a word those that a control group keeps back.
    let now = sched_getaffinity(None).map_err(|error| failed(error.into()))?;
    match cores.iter().find(|core| !now.is_set(**core)) {
        Some(core) => Err(failed(io::Error::other(format!("core {core} is not to be had")))),
        None => Ok(()),
    }
}

fn hold_to(bytes: u64) -> io::Result<()> {
    let now = getrlimit(Resource::Data);
    let at_most = |limit: Option<u64>| Some(limit.unwrap_or(u64::MAX).min(bytes));
    setrlimit(Resource::Data, Rlimit { current: at_most(now.current), maximum: at_most(now.maximum) })?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_on_one_core_computes_with_one() {
        // Of this thread alone, and of those that it starts.
        let on_first = || {
            let here = sched_getaffinity(None).unwrap();
            let first = (0..CpuSet::MAX_CPU).find(|core| here.is_set(*core)).unwrap();
            Share { cores: vec![first], memory_bytes: None }.take().unwrap();
            let threads = || std::thread::available_parallelism().unwrap().get();
            (threads(), std::thread::spawn(threads).join().unwrap())
        };
        assert_eq!(std::thread::spawn(on_first).join().unwrap(), (1, 1));
    }

    #[test]
    fn cores_that_are_not_there_are_told() {
        for core in [CpuSet::MAX_CPU - 1, CpuSet::MAX_CPU] {
            let share = Share { cores: vec![0, core], memory_bytes: None };
            let said = std::thread::spawn(move || share.take()).join().unwrap().unwrap_err();
            assert!(said.contains(&core.to_string()) || said.contains("none above"), "{said}");
        }
        assert_eq!(Share::default().take(), Ok(()));
    }
}
