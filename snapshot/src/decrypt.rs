//! An encrypted file → its plain bytes in memory, as fast as they can be read: by one thread for each processor where the page cache has
//! the file, else by enough of them to keep a disk busy.
//!
//! A piece is read to its place and decrypted there, while the processor's cache has it. The dearest part is fresh memory, so the room may have been
//! made ready before.

use crate::{
    CHUNK_BYTES, DataKey, Error, HEADER_BYTES, Header, Region,
    encrypt::{TAG_BYTES, open_piece, piece_ranges},
    mapping::Mapping,
    room::Room,
};
use ring::aead::LessSafeKey;
use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    sync::{Mutex, MutexGuard, PoisonError},
    thread, vec,
};

/// Least threads that decrypt what a disk gives: as many requests wait there.
const DISK_THREADS: usize = 8;
/// Most threads that decrypt.
const THREADS_MAX: usize = 64;

/// The plain bytes of an encrypted file, header and all, in `room` or in memory of its own, which nobody can change any more.
///
/// # Errors
/// Not encrypted; shorter than its header says; a piece that is not what was sealed with this key; I/O.
pub(crate) fn decrypt(
    file: &File,
    key: &DataKey,
    threads: usize,
    room: Option<Room>,
) -> Result<(Header, Mapping), Error> {
    let header = Header::read(file)?;
    let Some(tags_at) = header.tags else {
        return Err(Error::Key { problem: "it is not encrypted".into() });
    };
    let tags = read_tags(file, &header, tags_at)?;
    let plain = Header { tags: None, ..header };
    let page = plain.encode();
    let mut room = room.map_or_else(|| Room::new(plain.file_bytes), |room| room.resized(plain.file_bytes))?;
    let memory = room.bytes_mut();
    memory[..HEADER_BYTES].copy_from_slice(&page);
    let pieces = Mutex::new(pieces(&plain, &tags, memory));
    let work = Work { file, key: key.cipher(), page: &page, pieces };
    let threads = threads_for(file, plain.file_bytes, threads)?.min(plain.chunks() as usize);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(|| work.run())).collect();
        let panicked = || Error::io("decrypting")(io::Error::other("a thread panicked"));
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| panicked())?)
    })?;
    drop(work);
    Ok((plain, Mapping::of_memory(room.into_memory()).map_err(Error::io("sealing memory"))?))
}

/// The tags, which end the file; between them and what is encrypted are zeros.
fn read_tags(file: &File, header: &Header, at: Region) -> Result<Vec<u8>, Error> {
    let found = file.metadata().map_err(Error::io("sizing the snapshot"))?.len();
    let expected = at.offset + at.bytes;
    if found != expected {
        return Err(Error::Truncated { expected, found });
    }
    let mut tags = vec![0; at.bytes as usize];
    file.read_exact_at(&mut tags, at.offset).map_err(Error::io("reading the tags"))?;
    let gap = header.file_bytes..at.offset;
    let mut between = vec![0; (gap.end - gap.start) as usize];
    file.read_exact_at(&mut between, gap.start).map_err(Error::io("reading behind the checksums"))?;
    if between.iter().any(|byte| *byte != 0) {
        return Err(Error::Undecryptable { bytes: gap });
    }
    Ok(tags)
}

/// A part of the file under one tag, and where it goes.
struct Piece<'a> {
    number: u64,
    range: Range<u64>,
    tag: [u8; TAG_BYTES],
    plain: &'a mut [u8],
}

fn pieces<'a>(header: &Header, tags: &[u8], memory: &'a mut [u8]) -> vec::IntoIter<Piece<'a>> {
    let (mut rest, mut at) = (memory, 0);
    let numbered = piece_ranges(header).zip(tags.as_chunks::<TAG_BYTES>().0).zip(0..);
    let pieces = numbered.map(|((range, tag), number)| {
        let (_, behind) = std::mem::take(&mut rest).split_at_mut((range.start - at) as usize);
        let (plain, behind) = behind.split_at_mut((range.end - range.start) as usize);
        (rest, at) = (behind, range.end);
        Piece { number, range, tag: *tag, plain }
    });
    pieces.collect::<Vec<_>>().into_iter()
}

/// How many threads read: few of what the page cache has, more where they wait for the disk. One page of each piece tells.
fn threads_for(file: &File, bytes: u64, threads: usize) -> Result<usize, Error> {
    let map = Mapping::new(file, bytes as usize).map_err(Error::io("mapping the snapshot"))?;
    let mut some = (0..bytes).step_by(CHUNK_BYTES as usize).map(|at| at..at + 1);
    let is_there = Mapping::may_tell(file) && some.all(|byte| map.is_resident(&byte));
    Ok(threads.clamp(if is_there { 1 } else { DISK_THREADS }, THREADS_MAX))
}

struct Work<'a> {
    file: &'a File,
    key: LessSafeKey,
    /// The last piece's associated data.
    page: &'a [u8; HEADER_BYTES],
    pieces: Mutex<vec::IntoIter<Piece<'a>>>,
}

impl<'a> Work<'a> {
    fn lock(&self) -> MutexGuard<'_, vec::IntoIter<Piece<'a>>> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next piece nobody has taken, and whether it is the last.
    fn next(&self) -> Option<(Piece<'a>, bool)> {
        let mut pieces = self.lock();
        let piece = pieces.next()?;
        Some((piece, pieces.len() == 0))
    }

    fn run(&self) -> Result<(), Error> {
        while let Some((piece, is_last)) = self.next() {
            let done = self.open(piece, is_last);
            if done.is_err() {
                // No other piece is begun.
                *self.lock() = Vec::new().into_iter();
                return done;
            }
        }
        Ok(())
    }

    fn open(&self, piece: Piece<'_>, is_last: bool) -> Result<(), Error> {
        let Piece { number, range, tag, plain } = piece;
        let reading = Error::io(format!("reading bytes {:#x}..{:#x}", range.start, range.end));
        self.file.read_exact_at(plain, range.start).map_err(reading)?;
        let associated: &[u8] = if is_last { self.page } else { &[] };
        match open_piece(&self.key, number, associated, plain, tag) {
            true => Ok(()),
            false => Err(Error::Undecryptable { bytes: range }),
        }
    }
}
