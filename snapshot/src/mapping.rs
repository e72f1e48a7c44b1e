//! A snapshot's bytes, read-only: its file's, mapped, or those of an encrypted one in memory. With `room`, the `unsafe` of the crate.

use crate::{Error, PAGE_BYTES};
use memmap2::{Advice, Mmap, MmapMut};
use rustix::io::Errno;
use std::{fs::File, io, ops::Range, os::unix::fs::MetadataExt};

/// The whole file. Ranges given to it are within its length, which the header was checked against.
pub(crate) struct Mapping {
    map: Mmap,
}

impl Mapping {
    /// Maps `bytes` bytes of `file`; nothing is read yet.
    #[allow(unsafe_code)]
    pub(crate) fn new(file: &File, bytes: usize) -> io::Result<Self> {
        // SAFETY: the mapping is private and read-only. Sealed files are written once, made 0444 and only ever replaced
        // by rename, so the pages do not change beneath us; editing one in place is outside the crate's promise.
        let map = unsafe { memmap2::MmapOptions::new().len(bytes).map(file)? };
        // Advice: file systems that keep large folios read the file into huge pages then, of which a restore maps and decode walks few.
        let _ = map.advise(Advice::HugePage);
        Ok(Self { map })
    }

    /// What was written to memory, which is not written any more.
    ///
    /// Huge pages are asked for now, not before it was written, unless it was made ready so: a virtual machine gives large pages that nobody uses back to its host, and
    /// to fetch them again was seen to take five times as long as to decrypt into small ones. The kernel joins those as it finds time.
    pub(crate) fn of_memory(memory: MmapMut) -> io::Result<Self> {
        let map = memory.make_read_only()?;
        let _ = map.advise(Advice::HugePage);
        Ok(Self { map })
    }

    pub(crate) fn slice(&self, range: &Range<u64>) -> &[u8] {
        &self.map[range.start as usize..range.end as usize]
    }

    /// Where in the file `bytes` are, if they are of this mapping.
    pub(crate) fn range_of(&self, bytes: &[u8]) -> Option<Range<u64>> {
        let (map, part) = (self.map.as_ptr_range(), bytes.as_ptr_range());
        let at = |place: *const u8| (place as usize - map.start as usize) as u64;
        (map.start <= part.start && part.end <= map.end).then(|| at(part.start)..at(part.end))
    }

    /// Asks the disk for a range without waiting. One chunk a call: the kernel cuts longer requests short.
    pub(crate) fn read_ahead(&self, range: &Range<u64>) {
        // Advice: where the kernel declines, the pages come when they are touched.
        let _ = self.map.advise_range(Advice::WillNeed, range.start as usize, (range.end - range.start) as usize);
    }

    /// All pages of a range are in memory. To a process that may not write the file the kernel says so whatever is true; see
    /// [`Mapping::may_tell`].
    #[allow(unsafe_code)]
    pub(crate) fn is_resident(&self, range: &Range<u64>) -> bool {
        const PAGES_AT_ONCE: usize = 1024;
        let page = PAGE_BYTES as usize;
        let (first, end) = (range.start as usize / page, (range.end as usize).div_ceil(page));
        (first..end).step_by(PAGES_AT_ONCE).all(|from| {
            let pages = PAGES_AT_ONCE.min(end - from);
            let mut resident = [0u8; PAGES_AT_ONCE];
            // SAFETY: the pages are of this mapping, whose last may be cut short, and one byte is written for each of them, of which
            // there is room for `PAGES_AT_ONCE`.
            let told = unsafe {
                libc::mincore(self.map.as_ptr().add(from * page).cast_mut().cast(), pages * page, resident.as_mut_ptr())
            };
            told == 0 && resident[..pages].iter().all(|byte| byte & 1 == 1)
        })
    }

    /// The kernel tells this process what of the file is in memory: it owns the file, or may everything.
    pub(crate) fn may_tell(file: &File) -> bool {
        let user = rustix::process::geteuid();
        user.is_root() || file.metadata().is_ok_and(|metadata| metadata.uid() == user.as_raw())
    }

    /// Reads a range in and maps its pages with one call: a fault for every 64 KiB costs as much as summing them, and a
    /// disk that fails, or a file cut short since it was opened, is an error here instead of a SIGBUS later.
    pub(crate) fn populate(&self, range: &Range<u64>) -> Result<(), Error> {
        let length = (range.end - range.start) as usize;
        let failed = Error::io(format!("reading bytes {:#x}..{:#x}", range.start, range.end));
        match self.map.advise_range(Advice::PopulateRead, range.start as usize, length).map_err(errno) {
            Ok(()) => Ok(()),
            // Before Linux 5.14 there is no such advice: the pages are faulted in one by one.
            Err((Some(Errno::INVAL), _)) => Ok(()),
            Err((Some(Errno::FAULT), _)) => {
                Err(failed(io::Error::other("the file was cut short since it was opened, or its disk fails")))
            }
            Err((_, error)) => Err(failed(error)),
        }
    }
}

fn errno(error: io::Error) -> (Option<Errno>, io::Error) {
    (Errno::from_io_error(&error), error)
}
