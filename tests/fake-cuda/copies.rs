//! Copies, which take their time.

use crate::{
    INVALID_VALUE, SUCCESS, Status,
    memory::{Kind, MEMORY},
    misuse::misuse,
    setting,
    streams::{self, Work},
};
use std::{
    ffi::c_void,
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

/// What is copied between two looks at the clock.
const BIT: usize = 64 << 10;

static PAGEABLE: AtomicUsize = AtomicUsize::new(0);

pub struct Copy {
    from: usize,
    to: usize,
    bytes: usize,
    /// Of the source, when the copy was asked for; none where the device's own work may still change it.
    sum: Option<u64>,
    /// The source's bytes where it is not pinned.
    taken: Option<Vec<u8>>,
}

impl Copy {
    fn ranges(&self) -> [Range<usize>; 2] {
        [self.from..self.from + self.bytes, self.to..self.to + self.bytes]
    }

    pub fn run(self) {
        thread::sleep(Duration::from_micros(setting("FAKE_CUDA_DELAY_US", 300)));
        let from = self.taken.as_ref().map_or(self.from as *const u8, |taken| taken.as_ptr());
        for at in (0..self.bytes).step_by(BIT) {
            let bytes = BIT.min(self.bytes - at);
            unsafe { (self.to as *mut u8).add(at).copy_from(from.add(at), bytes) };
            thread::yield_now();
        }
        if self.sum.is_some_and(|sum| sum != unsafe { sum_of(self.to as *const u8, self.bytes) }) {
            misuse(format!("{} bytes of host memory were written while they were copied to the device", self.bytes));
        }
        let mut memory = MEMORY.lock().unwrap();
        self.ranges().iter().for_each(|range| memory.end(range));
    }
}

/// FNV-1a, eight bytes at a time.
unsafe fn sum_of(start: *const u8, bytes: usize) -> u64 {
    let content = unsafe { std::slice::from_raw_parts(start, bytes) };
    let words = content.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    words.fold(0xcbf2_9ce4_8422_2325, |sum, word| (sum ^ word).wrapping_mul(0x0100_0000_01b3))
}

fn start(mut copy: Copy, host: Option<usize>, device: &[usize], stream: *mut c_void) -> Status {
    if copy.bytes == 0 {
        return SUCCESS;
    }
    let mut memory = MEMORY.lock().unwrap();
    if let Some(at) = device.iter().find(|at| !memory.has(Kind::Device, &(**at..**at + copy.bytes))) {
        misuse(format!("a copy of {} bytes at {at:#x} is not within the device's memory", copy.bytes));
        return INVALID_VALUE;
    }
    let is_pageable = host.is_some_and(|at| !memory.has(Kind::Pinned, &(at..at + copy.bytes)));
    let is_out = host == Some(copy.to);
    if is_pageable {
        PAGEABLE.fetch_add(1, Ordering::Relaxed);
    }
    if host == Some(copy.from) {
        if is_pageable {
            copy.taken = Some(unsafe { std::slice::from_raw_parts(copy.from as *const u8, copy.bytes) }.to_vec());
        }
        copy.sum = Some(unsafe { sum_of(copy.from as *const u8, copy.bytes) });
    }
    copy.ranges().into_iter().for_each(|range| memory.begin(range));
    drop(memory);
    let stream = streams::of(stream);
    stream.push(Work::Copy(copy));
    // Out of the device into memory that is not pinned, the real one waits, too.
    if is_pageable && is_out {
        stream.synchronize();
    }
    SUCCESS
}

fn copy(from: usize, to: usize, bytes: usize) -> Copy {
    Copy { from, to, bytes, sum: None, taken: None }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: *mut c_void) -> Status {
    start(copy(from as usize, to as usize, bytes), Some(from as usize), &[to as usize], stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: *mut c_void) -> Status {
    start(copy(from as usize, to as usize, bytes), Some(to as usize), &[from as usize], stream)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: *mut c_void) -> Status {
    start(copy(from as usize, to as usize, bytes), None, &[from as usize, to as usize], stream)
}

/// Copies from or to host memory that was not pinned. For tests.
#[unsafe(no_mangle)]
pub extern "C" fn fakeCudaPageable() -> usize {
    PAGEABLE.load(Ordering::Relaxed)
}

/// `CUDA_MEMCPY2D`.
#[repr(C)]
pub struct Rectangle {
    from: Side,
    to: Side,
    width: usize,
    height: usize,
}

#[repr(C)]
struct Side {
    x: usize,
    y: usize,
    /// 1: the host's memory, 2: the device's.
    memory: u32,
    host: usize,
    device: usize,
    _array: usize,
    pitch: usize,
}

impl Side {
    fn row(&self, row: usize) -> usize {
        (if self.memory == 1 { self.host } else { self.device }) + self.x + (self.y + row) * self.pitch
    }
}

/// Row by row.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpy2DAsync_v2(what: *const Rectangle, stream: *mut c_void) -> Status {
    let Rectangle { from, to, width, height } = unsafe { &*what };
    for row in 0..*height {
        let (source, target) = (from.row(row), to.row(row));
        let status = match (from.memory, to.memory) {
            (1, _) => cuMemcpyHtoDAsync_v2(target as u64, source as *const c_void, *width, stream),
            (_, 1) => cuMemcpyDtoHAsync_v2(target as *mut c_void, source as u64, *width, stream),
            _ => cuMemcpyDtoDAsync_v2(target as u64, source as u64, *width, stream),
        };
        if status != SUCCESS {
            return status;
        }
    }
    SUCCESS
}
