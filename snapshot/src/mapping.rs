//! A snapshot's bytes: its file's, mapped read-only, or those of an encrypted one in memory, which are written once. With `room`, and what `decrypt` does with them, the
//! `unsafe` of the crate.
//!
//! **Invariant:** what is written of memory is written before anybody reads it, by one thread, and never again ([`Mapping::place`]). A reference to some of it may be
//! there before, as a tensor's is: nobody looks through it earlier.

use crate::{Error, PAGE_BYTES};
use memmap2::{Advice, MmapMut, MmapRaw};
use rustix::io::Errno;
use std::{fs::File, io, ops::Range, os::unix::fs::MetadataExt};

/// The whole file. Ranges given to it are within its length, which the header was checked against.
pub(crate) struct Mapping {
    map: MmapRaw,
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
        Ok(Self { map: map.into() })
    }

    pub(crate) fn len(&self) -> u64 {
        self.map.len() as u64
    }

    /// Memory that is to be written, by [`Mapping::place`], and then sealed.
    pub(crate) fn of_memory(memory: MmapMut) -> Self {
        Self { map: memory.into() }
    }

    /// Memory all of which is written, and is read-only from now on.
    ///
    /// Huge pages are asked for now where they were slow to come before ([`crate::pages`]): the kernel joins small ones as it finds time.
    #[allow(unsafe_code)]
    pub(crate) fn seal(&self) {
        // SAFETY: the range is this mapping. Nobody writes it any more, and it stays readable. Where it is refused, it only stays writable.
        unsafe { libc::mprotect(self.map.as_mut_ptr().cast(), self.map.len(), libc::PROT_READ) };
        let _ = self.map.advise(Advice::HugePage);
    }

    /// What is not there yet comes in small pages.
    pub(crate) fn in_small_pages(&self) {
        // Advice: where there are no huge pages there is nothing to refuse.
        let _ = self.map.advise(Advice::NoHugePage);
    }

    /// A place in memory that is to be written.
    ///
    /// # Safety
    /// The mapping is [`Mapping::of_memory`] and not sealed, and until the place is gone nobody else reads from it or has another.
    #[allow(unsafe_code, clippy::mut_from_ref)]
    pub(crate) unsafe fn place(&self, range: &Range<u64>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.map.len() as u64, "{range:?} of {}", self.map.len());
        // SAFETY: within the mapping, by the assertion, and nobody else's meanwhile, by the contract.
        unsafe {
            let start = self.map.as_mut_ptr().add(range.start as usize);
            std::slice::from_raw_parts_mut(start, (range.end - range.start) as usize)
        }
    }

    #[allow(unsafe_code)]
    pub(crate) fn slice(&self, range: &Range<u64>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.map.len() as u64, "{range:?} of {}", self.map.len());
        // SAFETY: within the mapping, by the assertion, which is readable and lives as long as `self`. What is to be written of it is written before it is
        // read, by the module's invariant.
        unsafe {
            let start = self.map.as_ptr().add(range.start as usize);
            std::slice::from_raw_parts(start, (range.end - range.start) as usize)
        }
    }

    /// Where in the file `bytes` are, if they are of this mapping.
    pub(crate) fn range_of(&self, bytes: Range<*const u8>) -> Option<Range<u64>> {
        let at = |place: *const u8| (place as usize).checked_sub(self.map.as_ptr() as usize);
        let (from, end) = (at(bytes.start)?, at(bytes.end)?);
        (from <= end && end <= self.map.len()).then_some(from as u64..end as u64)
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
