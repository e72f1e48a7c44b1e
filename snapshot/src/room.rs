//! Memory that an encrypted snapshot is decrypted into. Most of what that costs is the system's giving and clearing of pages, so who
//! knows before that a snapshot will come can have them given then.
//!
//! **Contract:** a room is this process's own and holds zeros; [`Room::make_ready`] changes what it costs to write to it and nothing else.

use crate::{ARENA_ALIGN, Error, align_up};
use memmap2::{Advice, MmapMut, RemapOptions};
use std::{io, ops::Range};

/// Bytes of a huge page.
const HUGE_BYTES: u64 = ARENA_ALIGN;

/// Some memory, of which the system need not have given a page yet.
#[derive(Debug)]
pub struct Room(MmapMut);

impl Room {
    /// So many bytes, at least one.
    ///
    /// # Errors
    /// The system has no room for them.
    pub fn new(bytes: u64) -> Result<Self, Error> {
        let failed = || Error::io(format!("making room for {bytes} bytes"));
        let length = usize::try_from(bytes.max(1)).map_err(|error| failed()(io::Error::other(error)))?;
        MmapMut::map_anon(length).map(Self).map_err(failed())
    }

    /// At least so many bytes, in whole huge pages, which [`Room::make_ready`] gets where the system has them.
    ///
    /// # Errors
    /// The system has no room for them.
    pub fn huge(bytes: u64) -> Result<Self, Error> {
        let room = Self::new(align_up(bytes.max(1), HUGE_BYTES).unwrap_or(u64::MAX))?;
        // Advice, of the whole, as a huge page is of one mapping with one advice: small pages do as well.
        let _ = room.0.advise(Advice::HugePage);
        Ok(room)
    }

    /// Bytes of it.
    pub fn bytes(&self) -> u64 {
        self.0.len() as u64
    }

    /// Has the system give the pages of a range, as far as it is within.
    ///
    /// # Errors
    /// It has no memory for them.
    pub fn make_ready(&mut self, range: Range<u64>) -> Result<(), Error> {
        let Range { start, end } = range;
        let (start, end) = (start.min(self.bytes()) as usize, end.min(self.bytes()) as usize);
        if start >= end {
            return Ok(());
        }
        match self.0.advise_range(Advice::PopulateWrite, start, end - start) {
            // Before Linux 5.14 there is no such advice.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => self.0[start..end].fill(0),
            given => given.map_err(Error::io(format!("asking for {} bytes of memory", end - start)))?,
        }
        Ok(())
    }

    /// The same memory with another length: what is given back was behind `bytes`, and what is new follows. Of memory that was written to, what is behind
    /// a shorter length may be found again, to the end of its page, in a longer one.
    #[allow(unsafe_code)]
    pub(crate) fn resized(mut self, bytes: u64) -> Result<Self, Error> {
        let failed = || Error::io(format!("making room for {bytes} bytes"));
        let length = usize::try_from(bytes.max(1)).map_err(|error| failed()(io::Error::other(error)))?;
        // SAFETY: nobody has a reference into the mapping, which is `self`'s and moves; and it is anonymous, so that all of it can be read and
        // written at any length.
        unsafe { self.0.remap(length, RemapOptions::new().may_move(true)) }.map_err(failed())?;
        Ok(self)
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    pub(crate) fn into_memory(self) -> MmapMut {
        self.0
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_room_holds_zeros_whatever_is_ready_of_it_and_keeps_what_was_written_when_its_length_changes() {
        for (from, to) in [(3 * MIB, 5 * MIB + 7), (5 * MIB, MIB + 1), (4096, 1), (MIB, MIB)] {
            let mut room = Room::new(from).unwrap();
            room.make_ready(0..2 * MIB).unwrap();
            room.make_ready(2 * MIB..u64::MAX).unwrap();
            room.make_ready(9 * MIB..10 * MIB).unwrap();
            assert!(room.bytes() == from && room.bytes_mut().iter().all(|byte| *byte == 0));
            room.bytes_mut().fill(7);
            let mut room = room.resized(to).unwrap();
            let (old, new) = room.bytes_mut().split_at(from.min(to) as usize);
            assert!(old.iter().all(|byte| *byte == 7) && new.iter().all(|byte| *byte == 0), "{from} {to}");
            assert_eq!(room.bytes(), to);
        }
    }

    #[test]
    fn huge_pages_are_whole() {
        let mut room = Room::huge(3 * MIB).unwrap();
        room.make_ready(0..room.bytes()).unwrap();
        assert!(room.bytes() == 4 * MIB && room.bytes_mut().iter().all(|byte| *byte == 0));
        assert_eq!(Room::huge(0).unwrap().bytes(), 2 * MIB);
        assert_eq!(room.resized(3 * MIB).unwrap().bytes(), 3 * MIB);
    }

    #[test]
    fn more_than_there_can_be_is_an_error() {
        assert!(Room::huge(u64::MAX).is_err());
        let error = Room::new(u64::MAX / 2).unwrap_err().to_string();
        assert!(error.contains("making room for 9223372036854775807 bytes"), "{error}");
    }
}
