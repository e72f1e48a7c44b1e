//! A snapshot's bytes, mapped read-only. The only `unsafe` of the crate.

use crate::Error;
use memmap2::{Advice, Mmap};
use rustix::io::Errno;
use std::{fs::File, io, ops::Range};

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
        Ok(Self { map })
    }

    pub(crate) fn slice(&self, range: &Range<u64>) -> &[u8] {
        &self.map[range.start as usize..range.end as usize]
    }

    /// Asks the disk for a range without waiting. One chunk a call: the kernel cuts longer requests short.
    pub(crate) fn read_ahead(&self, range: &Range<u64>) {
        // Advice: where the kernel declines, the pages come when they are touched.
        let _ = self.map.advise_range(Advice::WillNeed, range.start as usize, (range.end - range.start) as usize);
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
