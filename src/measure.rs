//! What this machine's disk and memory can do, measured in bounded time.

use rustix::fs::OFlags;
use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::{Duration, Instant},
};

/// What is written to the disk and read back.
const DISK_BYTES: usize = 256 << 20;
/// One read of it.
const DISK_READ_BYTES: usize = 4 << 20;
/// `O_DIRECT` asks for buffers on this boundary.
const DISK_ALIGNMENT: usize = 4096;
/// Writing stops there, and what is on the disk by then is read.
const DISK_WRITE_MAX: Duration = Duration::from_secs(2);
/// Reading stops there.
const DISK_READ_MAX: Duration = Duration::from_secs(1);
/// Much larger than any processor's cache.
const MEMORY_BYTES: usize = 256 << 20;
/// Passes over it; the fastest counts.
const MEMORY_PASSES: usize = 5;

/// Bytes a second read from the disk that holds `folder`, past the page cache.
pub fn disk_read(folder: &Path) -> io::Result<f64> {
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    fill(file.as_file_mut())?;
    let direct = OpenOptions::new().read(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(file.path())?;
    read_back(direct)
}

fn fill(file: &mut File) -> io::Result<()> {
    // No two blocks are the same, for disks that would notice.
    let mut block: Vec<u8> = (0..DISK_READ_BYTES).map(|at| (at * 31 + at / 4099) as u8).collect();
    let begun = Instant::now();
    for at in 0..DISK_BYTES / DISK_READ_BYTES {
        block[..8].copy_from_slice(&at.to_le_bytes());
        file.write_all(&block)?;
        if begun.elapsed() > DISK_WRITE_MAX {
            break;
        }
    }
    file.sync_all()
}

fn read_back(mut file: File) -> io::Result<f64> {
    let mut memory = vec![0_u8; DISK_READ_BYTES + DISK_ALIGNMENT];
    let start = memory.as_ptr().align_offset(DISK_ALIGNMENT);
    let buffer = &mut memory[start..start + DISK_READ_BYTES];
    let begun = Instant::now();
    let mut total = 0;
    while begun.elapsed() < DISK_READ_MAX {
        match file.read(buffer)? {
            0 => break,
            count => total += count,
        }
    }
    Ok(total as f64 / begun.elapsed().as_secs_f64())
}

/// Bytes a second that `threads` threads together read from memory.
pub fn memory_read(threads: usize) -> f64 {
    // Ones, not zeros: zeroed memory would be one shared page until it is touched.
    let memory = vec![1_u64; MEMORY_BYTES / size_of::<u64>()];
    let pass = || {
        let begun = Instant::now();
        let sum = share(&memory, threads);
        assert_eq!(sum, memory.len() as u64, "every word is read once");
        MEMORY_BYTES as f64 / begun.elapsed().as_secs_f64()
    };
    (0..MEMORY_PASSES).map(|_| pass()).fold(0.0, f64::max)
}

/// The sum of `memory`, each thread adding up its part.
fn share(memory: &[u64], threads: usize) -> u64 {
    let part = memory.len().div_ceil(threads.max(1));
    std::thread::scope(|scope| {
        let parts: Vec<_> = memory.chunks(part).map(|part| scope.spawn(move || sum(part))).collect();
        parts.into_iter().map(|part| part.join().expect("adding up does not panic")).sum()
    })
}

/// Eight sums at once, so that memory is waited for and not the adder.
fn sum(part: &[u64]) -> u64 {
    let mut sums = [0_u64; 8];
    let (eights, rest) = part.as_chunks::<8>();
    for eight in eights {
        for (sum, word) in sums.iter_mut().zip(eight) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter().chain(rest).fold(0, |all, word| all.wrapping_add(*word))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_word_is_added_once_however_many_threads() {
        let memory: Vec<u64> = (0..1003).collect();
        for threads in [0, 1, 2, 7, 2000] {
            assert_eq!(share(&memory, threads), 1003 * 1002 / 2, "{threads} threads");
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        assert_eq!(disk_read(Path::new("/nowhere")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
