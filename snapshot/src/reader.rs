//! Chunks into memory of the caller's, verified: for devices, whose memory is not the page cache.
//!
//! **Contract:** what [`Reader::read`] gives is what was sealed, or it is an error. What the page cache has is copied from it; the rest is read
//! past it (`O_DIRECT`), where the file system has that. **Invariant:** a chunk that was read here counts as verified.

use crate::{Error, PAGE_BYTES, Snapshot, decrypt::Decryption, mapping::Mapping};
use rustix::fs::{Mode, OFlags};
use std::{
    fs::File,
    io,
    ops::Range,
    os::{fd::AsRawFd, unix::fs::FileExt},
    sync::Arc,
};

/// Threads that keep a disk busy: as many requests wait there.
const DISK_THREADS: usize = 8;

/// Reads a snapshot's chunks, on any number of threads.
#[derive(Debug)]
pub struct Reader {
    snapshot: Arc<Snapshot>,
    /// The same file past the page cache.
    direct: Option<File>,
}

impl Snapshot {
    /// A reader of this snapshot's chunks.
    pub fn reader(self: &Arc<Self>) -> Reader {
        Reader { snapshot: self.clone(), direct: self.file().and_then(past_the_page_cache) }
    }

    /// The whole chunks that hold a range of the file, cut into ranges of `bytes_max` bytes, but of one chunk at least.
    pub fn whole_chunks(&self, range: Range<u64>, bytes_max: u64) -> Vec<Range<u64>> {
        let chunks = self.chunks_of(&range);
        let at_once = (bytes_max / u64::from(self.header().chunk_bytes)).max(1) as usize;
        let cut = |from| {
            let last = chunks.end.min(from + at_once) - 1;
            self.header().chunk_range(from as u64).start..self.header().chunk_range(last as u64).end
        };
        chunks.clone().step_by(at_once).map(cut).collect()
    }
}

impl Reader {
    /// Fills `to` with whole chunks, as [`Snapshot::whole_chunks`] names them, and verifies them.
    ///
    /// # Errors
    /// A chunk is corrupt; the file was cut short; the disk fails.
    ///
    /// # Panics
    /// Where `to` is not as long as the range, or the range is not of whole chunks.
    pub fn read(&self, range: &Range<u64>, to: &mut [u8]) -> Result<(), Error> {
        assert_eq!(to.len() as u64, range.end - range.start, "bytes of a range");
        match self.snapshot.file() {
            Some(file) => self.read_file(file, range, to)?,
            None => {
                self.snapshot.chunks_of(range).try_for_each(|chunk| self.snapshot.check_chunk(chunk))?;
                to.copy_from_slice(self.snapshot.mapping().slice(range));
            }
        }
        for chunk in self.snapshot.chunks_of(range) {
            let bytes = self.snapshot.header().chunk_range(chunk as u64);
            assert!(range.start <= bytes.start && bytes.end <= range.end, "whole chunks");
            let (from, end) = ((bytes.start - range.start) as usize, (bytes.end - range.start) as usize);
            self.snapshot.compare_chunk(chunk, &to[from..end])?;
        }
        Ok(())
    }

    /// How many threads to read a range with: as many as there are processors for what is in memory, more to keep a disk busy.
    pub fn threads(&self, range: &Range<u64>, processors: usize) -> usize {
        let is_there = match self.snapshot.file() {
            Some(file) => self.is_resident(file, range),
            None => self.snapshot.decryption().is_some_and(Decryption::is_resident),
        };
        if is_there { processors.max(1) } else { processors.max(DISK_THREADS) }
    }

    fn is_resident(&self, file: &File, range: &Range<u64>) -> bool {
        Mapping::may_tell(file) && self.snapshot.mapping().is_resident(range)
    }

    fn read_file(&self, file: &File, range: &Range<u64>, to: &mut [u8]) -> Result<(), Error> {
        let is_aligned = |value: u64| value.is_multiple_of(PAGE_BYTES);
        let direct = self.direct.as_ref().filter(|_| {
            [range.start, range.end, to.as_ptr() as u64].into_iter().all(is_aligned) && !self.is_resident(file, range)
        });
        if let Some(direct) = direct {
            match direct.read_exact_at(to, range.start) {
                Ok(()) => return Ok(()),
                // The file system took the flag and not the request.
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {}
                Err(error) => return Err(failed(range, error)),
            }
        }
        file.read_exact_at(to, range.start).map_err(|error| failed(range, error))
    }
}

fn failed(range: &Range<u64>, error: io::Error) -> Error {
    let error = match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::other("the file was cut short since it was opened"),
        _ => error,
    };
    Error::io(format!("reading bytes {:#x}..{:#x}", range.start, range.end))(error)
}

/// The open file once more, by its descriptor: its path may be another file's by now.
fn past_the_page_cache(file: &File) -> Option<File> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty()).ok().map(File::from)
}
