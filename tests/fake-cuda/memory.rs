//! Memory: the device's is the host's, under another name. Every allocation is known, and so is what copies are at.

use crate::{INVALID_VALUE, OUT_OF_MEMORY, SUCCESS, Status, misuse::misuse, streams};
use std::{
    alloc::{Layout, alloc, dealloc},
    collections::BTreeMap,
    ffi::{c_uint, c_void},
    ops::Range,
    sync::Mutex,
};

const PAGE: usize = 4096;
/// What memory of a device has before anybody wrote it.
const GARBAGE: u8 = 0xa5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Device,
    Pinned,
}

#[derive(Default)]
pub struct Memory {
    /// By first byte: length and kind.
    allocations: BTreeMap<usize, (usize, Kind)>,
    /// What copies read and write now.
    under_way: Vec<Range<usize>>,
}

pub static MEMORY: Mutex<Memory> = Mutex::new(Memory { allocations: BTreeMap::new(), under_way: Vec::new() });

impl Memory {
    /// The bytes lie within one allocation of a kind.
    pub fn has(&self, kind: Kind, range: &Range<usize>) -> bool {
        let below = self.allocations.range(..=range.start).next_back();
        below.is_some_and(|(start, (bytes, of))| *of == kind && range.end <= start + bytes)
    }

    pub fn begin(&mut self, range: Range<usize>) {
        self.under_way.push(range);
    }

    pub fn end(&mut self, range: &Range<usize>) {
        let at = self.under_way.iter().position(|other| other == range).expect("what has begun");
        self.under_way.swap_remove(at);
    }

    fn is_under_way(&self, range: &Range<usize>) -> bool {
        self.under_way.iter().any(|other| other.start < range.end && range.start < other.end)
    }
}

fn allocate(bytes: usize, kind: Kind) -> Option<usize> {
    let layout = Layout::from_size_align(bytes, PAGE).ok().filter(|layout| layout.size() > 0)?;
    let start = unsafe { alloc(layout) };
    if start.is_null() {
        return None;
    }
    unsafe { start.write_bytes(GARBAGE, bytes) };
    MEMORY.lock().unwrap().allocations.insert(start as usize, (bytes, kind));
    Some(start as usize)
}

pub fn free(start: usize, kind: Kind) -> Status {
    let mut memory = MEMORY.lock().unwrap();
    match memory.allocations.get(&start).copied() {
        Some((bytes, of)) if of == kind => {
            let range = start..start + bytes;
            memory.allocations.remove(&start);
            if memory.is_under_way(&range) {
                // The copy goes on, in memory that is not given to anybody else.
                misuse(format!("{kind:?} memory freed under a copy"));
                return SUCCESS;
            }
            unsafe { dealloc(start as *mut u8, Layout::from_size_align(bytes, PAGE).unwrap()) };
            SUCCESS
        }
        _ => {
            misuse(format!("{start:#x} freed, which is no {kind:?} allocation"));
            INVALID_VALUE
        }
    }
}

unsafe fn give<T>(to: *mut T, found: Option<usize>, of: impl FnOnce(usize) -> T) -> Status {
    match found {
        Some(start) => {
            unsafe { to.write(of(start)) };
            SUCCESS
        }
        None => OUT_OF_MEMORY,
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(to: *mut u64, bytes: usize) -> Status {
    unsafe { give(to, allocate(bytes, Kind::Device), |start| start as u64) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(to: *mut u64, bytes: usize, _stream: *mut c_void) -> Status {
    unsafe { cuMemAlloc_v2(to, bytes) }
}

/// Waits for the device, as the real one does.
#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(start: u64) -> Status {
    streams::synchronize_all();
    free(start as usize, Kind::Device)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeAsync(start: u64, stream: *mut c_void) -> Status {
    streams::of(stream).push(streams::Work::Free(start as usize));
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(to: *mut *mut c_void, bytes: usize, _flags: c_uint) -> Status {
    unsafe { give(to, allocate(bytes, Kind::Pinned), |start| start as *mut c_void) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocHost_v2(to: *mut *mut c_void, bytes: usize) -> Status {
    unsafe { cuMemHostAlloc(to, bytes, 0) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(start: *mut c_void) -> Status {
    free(start as usize, Kind::Pinned)
}

/// What the device's memory has at this moment, whatever is under way. For tests.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fakeCudaPeek(from: u64, to: *mut u8, bytes: usize) {
    assert!(MEMORY.lock().unwrap().has(Kind::Device, &(from as usize..from as usize + bytes)));
    unsafe { to.copy_from((from as usize) as *const u8, bytes) };
}
