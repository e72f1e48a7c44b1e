//! The program's own code and constants, in memory and mapped before a standby needs them. One of the six files of this crate with `unsafe`.
//!
//! Left alone they come page by page, when they are first executed: from a disk, where nobody else has executed them for a while, and then each behind what is
//! being read of a snapshot. Their memory is the page cache's, and all processes' that run the program.
//!
//! **Contract:** [`bring`] returns at once. **Failure:** what does not come beforehand comes when it is needed, as ever.
#![allow(unsafe_code)]

use crate::process;
use std::{ops::Range, thread};

/// What is asked for at once: who wants to change what is mapped waits for as much.
const PIECE_BYTES: usize = 256 << 10;

/// Begins to bring them, on a thread of its own.
pub(crate) fn bring() {
    let work = || {
        process::stand_back();
        populate();
    };
    if let Err(error) = thread::Builder::new().name("code".into()).spawn(work) {
        tracing::warn!(%error, "the program's code comes when it is needed: starting a thread");
    }
}

fn populate() {
    for part in parts() {
        for from in part.clone().step_by(PIECE_BYTES) {
            let length = PIECE_BYTES.min(part.end - from);
            // SAFETY: nothing is changed but which pages are there. Where it is refused, or there is no such advice (before Linux 5.14), nothing is.
            unsafe { libc::madvise(from as *mut libc::c_void, length, libc::MADV_POPULATE_READ) };
        }
    }
}

/// Addresses, in whole pages, of what this process has loaded of its program and libraries and does not write to.
fn parts() -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    // SAFETY: `add` is called meanwhile alone, with what is given here as its last argument.
    unsafe { libc::dl_iterate_phdr(Some(add), (&raw mut parts).cast()) };
    parts
}

/// Adds an object's parts.
///
/// # Safety
/// As `dl_iterate_phdr` calls it, with a vector of ranges as `parts` that nobody else has meanwhile.
unsafe extern "C" fn add(object: *mut libc::dl_phdr_info, _: libc::size_t, parts: *mut libc::c_void) -> libc::c_int {
    let page = rustix::param::page_size();
    // SAFETY: the first by the contract of `dl_iterate_phdr`, the second by ours.
    let (object, parts) = unsafe { (&*object, &mut *parts.cast::<Vec<Range<usize>>>()) };
    if object.dlpi_phdr.is_null() {
        return 0;
    }
    // SAFETY: an object's headers are as many as it says, and there as long as it is loaded.
    let headers = unsafe { std::slice::from_raw_parts(object.dlpi_phdr, usize::from(object.dlpi_phnum)) };
    for header in headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0) {
        let start = (object.dlpi_addr as usize).wrapping_add(header.p_vaddr as usize);
        let end = start.saturating_add(header.p_memsz as usize);
        parts.push(start / page * page..end.next_multiple_of(page));
    }
    0
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Of the part that holds an address: kilobytes in all, and resident.
    fn part_with(address: usize) -> (u64, u64) {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = smaps.lines();
        let holds = |line: &str| {
            let parse = |text| usize::from_str_radix(text, 16).ok();
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            range.and_then(|(from, end)| Some(parse(from)?..parse(end)?)).is_some_and(|range| range.contains(&address))
        };
        lines.by_ref().find(|line| holds(line)).unwrap();
        let mut kilobytes = |name: &str| {
            let line = lines.by_ref().find(|line| line.starts_with(name)).unwrap();
            line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
        };
        (kilobytes("Size:"), kilobytes("Rss:"))
    }

    #[test]
    fn all_of_the_code_is_there_and_mapped() {
        let here = part_with as fn(usize) -> (u64, u64) as usize;
        assert!(parts().iter().any(|part| part.contains(&here)));
        // Where memory is short some may be gone again.
        let is_there = || {
            populate();
            let (kilobytes, resident) = part_with(here);
            kilobytes > 100 && resident == kilobytes
        };
        assert!((0..20).any(|_| is_there()), "{:?}", part_with(here));
    }

    #[test]
    fn what_is_written_to_is_left_alone() {
        static WRITTEN: std::sync::Mutex<u64> = std::sync::Mutex::new(1);
        let here = (&raw const WRITTEN) as usize;
        assert!(!parts().iter().any(|part| part.contains(&here)));
    }
}
