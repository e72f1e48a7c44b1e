//! What this machine's disk, memory and processors can do, measured in bounded time.

use kernels::limits::{Arithmetic, Memory};
use rustix::fs::OFlags;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    thread,
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
/// Reads of a file at once, and how much each reads.
const FILE_READS: usize = 16;
const FILE_READ_BYTES: usize = 1 << 20;
/// Memory that is read is so many times as large as the largest cache …
const CACHES: usize = 8;
/// … but no smaller than this …
const MEMORY_BYTES_MIN: usize = 256 << 20;
/// … and no larger than this.
const MEMORY_BYTES_MAX: usize = 1 << 30;
/// Passes over it; the fastest counts.
const MEMORY_PASSES: usize = 5;
/// Rounds of arithmetic; the fastest counts.
const ARITHMETIC_ROUNDS: usize = 5;

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

/// Bytes a second at which `path` is read past the page cache, by as many reads at once as keep a disk busy. An empty file is read at 0.
pub fn file_read(path: &Path) -> io::Result<f64> {
    let direct = OpenOptions::new().read(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(path)?;
    let bytes = direct.metadata()?.len();
    let (next, begun) = (AtomicU64::new(0), Instant::now());
    let read_some = || {
        let mut memory = vec![0_u8; FILE_READ_BYTES + DISK_ALIGNMENT];
        let start = memory.as_ptr().align_offset(DISK_ALIGNMENT);
        let buffer = &mut memory[start..start + FILE_READ_BYTES];
        loop {
            let at = next.fetch_add(FILE_READ_BYTES as u64, Ordering::Relaxed);
            if at >= bytes {
                return Ok::<(), io::Error>(());
            }
            // The file's end is the only place where less comes.
            direct.read_at(buffer, at)?;
        }
    };
    thread::scope(|scope| {
        let readers: Vec<_> = (0..FILE_READS).map(|_| scope.spawn(read_some)).collect();
        let failed = || io::Error::other("a reading thread panicked");
        readers.into_iter().try_for_each(|reader| reader.join().map_err(|_| failed())?)
    })?;
    Ok(bytes as f64 / begun.elapsed().as_secs_f64())
}

/// Memory to measure with: several times what the caches hold.
pub fn memory() -> Memory {
    Memory::new(MEMORY_BYTES_MIN.max(CACHES * cache_bytes()).min(MEMORY_BYTES_MAX))
}

/// The largest cache of the first processor, in bytes; 0 where the system does not say.
pub fn cache_bytes() -> usize {
    let caches = fs::read_dir("/sys/devices/system/cpu/cpu0/cache").into_iter().flatten().flatten();
    let sizes = caches.filter_map(|cache| fs::read_to_string(cache.path().join("size")).ok());
    sizes.filter_map(|size| kibibytes(&size)).max().unwrap_or(0)
}

/// `32768K`, as Linux writes it, in bytes.
fn kibibytes(text: &str) -> Option<usize> {
    text.trim().strip_suffix('K')?.parse::<usize>().ok()?.checked_mul(1024)
}

/// Bytes a second that all cores together read from memory, the best of some passes.
pub fn memory_read() -> f64 {
    let memory = memory();
    (0..MEMORY_PASSES).map(|_| memory.read()).fold(0.0, f64::max)
}

/// Operations a second of all cores together, the best of some rounds.
pub fn arithmetic(kind: Arithmetic) -> f64 {
    (0..ARITHMETIC_ROUNDS).map(|_| kind.rate()).fold(0.0, f64::max)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_cache_is_read_in_bytes() {
        assert_eq!(kibibytes("32768K\n"), Some(32 << 20));
        assert_eq!((kibibytes("32M"), kibibytes("")), (None, None));
    }

    #[test]
    fn a_folder_that_is_not_there_is_an_error() {
        assert_eq!(disk_read(Path::new("/nowhere")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
