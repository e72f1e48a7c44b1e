//! The CUDA link against `tests/fake-cuda`, whose copies take their time and which tells on who does not wait for them.
//! `scripts/check-fake-cuda` builds the stand-in and runs this; it was not run on a GPU.

#![allow(missing_docs, clippy::unwrap_used)]

use cudarc::driver::{CudaContext, result, sys};
use std::{
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use transfer::{
    Error, Link, Part, Piece, Ring,
    cuda::{CudaLink, CudaMemory},
    start,
};

const PIECE: usize = 256 << 10;

/// What the stand-in says besides what a driver does.
struct Driver {
    context: Arc<CudaContext>,
    /// What is counted is the whole process's.
    _alone: MutexGuard<'static, ()>,
}

impl Driver {
    fn new() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: looks for the library.
        assert!(unsafe { sys::is_culib_present() }, "no libcuda.so: run scripts/check-fake-cuda");
        Self { context: CudaContext::new(0).unwrap(), _alone: alone }
    }

    fn misuse(&self) -> (usize, String) {
        let mut text = vec![0u8; 4096];
        // SAFETY: the stand-in's function has this type, and writes at most so many bytes.
        let count = unsafe {
            let ask = sys::culib().get::<unsafe extern "C" fn(*mut u8, usize) -> usize>(b"fakeCudaMisuse\0");
            ask.expect("the stand-in, not a driver")(text.as_mut_ptr(), text.len())
        };
        (count, String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned())
    }

    fn pageable(&self) -> usize {
        // SAFETY: the stand-in's function has this type.
        unsafe { sys::culib().get::<extern "C" fn() -> usize>(b"fakeCudaPageable\0").unwrap()() }
    }

    /// What the device's memory has now.
    fn peek(&self, address: u64, bytes: usize) -> Vec<u8> {
        let mut content = vec![0u8; bytes];
        // SAFETY: the stand-in's function has this type, and writes so many bytes.
        unsafe {
            let peek = sys::culib().get::<unsafe extern "C" fn(u64, *mut u8, usize)>(b"fakeCudaPeek\0").unwrap();
            peek(address, content.as_mut_ptr(), bytes);
        }
        content
    }
}

/// Memory of the device.
struct Allocation(u64);

impl Allocation {
    fn new(bytes: usize) -> Arc<Self> {
        // SAFETY: freed once, when it is dropped.
        Arc::new(Self(unsafe { result::malloc_sync(bytes) }.unwrap()))
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: as above.
        unsafe { result::free_sync(self.0) }.unwrap();
    }
}

fn memory(allocation: &Arc<Allocation>, bytes: usize) -> CudaMemory {
    // SAFETY: allocated so, kept by the owner, and read by nobody else.
    unsafe { CudaMemory::new(allocation.0, bytes, allocation.clone()) }
}

fn byte(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

fn source(range: Range<u64>, to: &mut [u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    to.iter_mut().zip(range).for_each(|(to, at)| *to = byte(at));
    Ok(())
}

/// `count` pieces, the halves of each in memories of their own.
fn pieces(count: usize) -> (Vec<Piece<CudaMemory>>, Arc<Allocation>, Arc<Allocation>) {
    let bytes = count * PIECE / 2;
    let (first, second) = (Allocation::new(bytes), Allocation::new(bytes));
    let piece = |number: usize| {
        let at = number * PIECE / 2;
        let part = |from, allocation| Part { from, to: memory(allocation, bytes), at };
        let parts = vec![part(0..PIECE / 2, &first), part(PIECE / 2..PIECE, &second)];
        Piece { range: (number * PIECE) as u64..((number + 1) * PIECE) as u64, parts }
    };
    ((0..count).map(piece).collect(), first, second)
}

const RING: Ring = Ring { buffers: 3, buffer_bytes: PIECE, threads: 2 };

#[test]
fn every_piece_is_there_when_it_is_said_to_be() {
    let driver = Driver::new();
    let (misused, pageable) = (driver.misuse().0, driver.pageable());
    const COUNT: usize = 40;
    let (pieces, first, second) = pieces(COUNT);
    let arrivals = start(CudaLink::new(0).unwrap(), pieces, source, RING).unwrap();
    for number in 0..COUNT {
        arrivals.wait(number..number + 1).unwrap();
        let (at, half) = ((number * PIECE) as u64, PIECE as u64 / 2);
        for (allocation, at) in [(&first, at), (&second, at + half)] {
            let found = driver.peek(allocation.0 + number as u64 * half, PIECE / 2);
            assert!(found.iter().copied().eq((at..at + half).map(byte)), "piece {number}");
        }
    }
    arrivals.wait_all().unwrap();
    assert_eq!(driver.misuse().0, misused, "{}", driver.misuse().1);
    assert_eq!(driver.pageable(), pageable, "all from pinned memory");
}

#[test]
fn memory_that_nobody_else_keeps_lives_as_long_as_the_copies() {
    let driver = Driver::new();
    let misused = driver.misuse().0;
    let (pieces, first, second) = pieces(12);
    let arrivals = start(CudaLink::new(0).unwrap(), pieces, source, RING).unwrap();
    drop((first, second));
    arrivals.wait_all().unwrap();
    assert_eq!(driver.misuse().0, misused, "{}", driver.misuse().1);
}

#[test]
fn a_flight_that_is_dropped_waits_as_well() {
    let driver = Driver::new();
    let misused = driver.misuse().0;
    let (mut pieces, ..) = pieces(1);
    let mut link = CudaLink::new(0).unwrap();
    let buffer = link.staging(PIECE).unwrap();
    drop(link.send(buffer, pieces.remove(0).parts).unwrap());
    assert_eq!(driver.misuse().0, misused, "{}", driver.misuse().1);
}

#[test]
fn a_part_beyond_its_memory_is_refused() {
    let _driver = Driver::new();
    let allocation = Allocation::new(PIECE);
    let part = Part { from: 0..PIECE, to: memory(&allocation, PIECE), at: 1 };
    let piece = Piece { range: 0..PIECE as u64, parts: vec![part] };
    let arrivals = start(CudaLink::new(0).unwrap(), vec![piece], source, RING).unwrap();
    assert!(matches!(*arrivals.wait_all().unwrap_err(), Error::Plan(_)));
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    let _driver = Driver::new();
    assert!(matches!(CudaLink::new(7).unwrap_err(), Error::Device(_)));
}

/// What a link would do that waits for no event.
#[test]
fn the_stand_in_catches_a_buffer_that_is_reused_too_early() {
    let driver = Driver::new();
    let misused = driver.misuse().0;
    let to = Allocation::new(PIECE);
    let stream = driver.context.new_stream().unwrap();
    // SAFETY: pinned memory, written at once. The device reads it while it is written again: the stand-in has to say so.
    unsafe {
        let mut buffer = driver.context.alloc_pinned_with_flags::<u8>(PIECE, 0).unwrap();
        let start = buffer.as_mut_ptr().unwrap();
        start.write_bytes(1, PIECE);
        result::memcpy_htod_async(to.0, std::slice::from_raw_parts(start, PIECE), stream.cu_stream()).unwrap();
        start.write_bytes(2, PIECE);
        stream.synchronize().unwrap();
    }
    let (count, text) = driver.misuse();
    assert_eq!(count, misused + 1);
    assert!(text.contains("were written while they were copied"), "{text}");
}

#[test]
fn the_stand_in_catches_memory_that_is_freed_too_early() {
    let driver = Driver::new();
    let misused = driver.misuse().0;
    let to = Allocation::new(PIECE);
    let stream = driver.context.new_stream().unwrap();
    // SAFETY: as above; it is freed while the device reads it.
    unsafe {
        let start = result::malloc_host(PIECE, 0).unwrap().cast::<u8>();
        start.write_bytes(1, PIECE);
        result::memcpy_htod_async(to.0, std::slice::from_raw_parts(start, PIECE), stream.cu_stream()).unwrap();
        result::free_host(start.cast()).unwrap();
        stream.synchronize().unwrap();
    }
    let (count, text) = driver.misuse();
    assert_eq!(count, misused + 1);
    assert!(text.contains("freed under a copy"), "{text}");
}
