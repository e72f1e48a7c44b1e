//! An encrypted file → its plain bytes in memory, as fast as they can be read: by one thread for each processor where the page cache has
//! the file, else by enough of them to keep a disk busy.
//!
//! A piece is read into a thread's own buffer, which stays in the processor's cache, is decrypted there, and copied to its place: fresh memory
//! is the dearest part, and is touched once.

use crate::{
    DataKey, Error, HEADER_BYTES, Header, Region,
    encrypt::{TAG_BYTES, open_piece, piece_ranges},
    mapping::Mapping,
};
use memmap2::MmapMut;
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

/// The plain bytes of an encrypted file, header and all, in memory that nobody can change any more.
///
/// # Errors
/// Not encrypted; shorter than its header says; a piece that is not what was sealed with this key; I/O.
pub(crate) fn decrypt(file: &File, key: &DataKey, threads: usize) -> Result<(Header, Mapping), Error> {
    let header = Header::read(file)?;
    let Some(tags_at) = header.tags else {
        return Err(Error::Key { problem: "it is not encrypted".into() });
    };
    let tags = read_tags(file, &header, tags_at)?;
    let plain = Header { tags: None, ..header };
    let page = plain.encode();
    let mut memory = room(plain.file_bytes)?;
    memory[..HEADER_BYTES].copy_from_slice(&page);
    let pieces = Mutex::new(pieces(&plain, &tags, &mut memory));
    let work = Work { file, key: key.cipher(), page: &page, pieces };
    let threads = threads_for(file, plain.file_bytes, threads)?.min(plain.chunks() as usize);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(|| work.run())).collect();
        let panicked = || Error::io("decrypting")(io::Error::other("a thread panicked"));
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| panicked())?)
    })?;
    drop(work);
    Ok((plain, Mapping::of_memory(memory).map_err(Error::io("sealing memory"))?))
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

/// Memory for so many bytes.
fn room(bytes: u64) -> Result<MmapMut, Error> {
    let failed = || Error::io(format!("making room for {bytes} bytes"));
    let bytes = usize::try_from(bytes).map_err(|error| failed()(io::Error::other(error)))?;
    MmapMut::map_anon(bytes).map_err(failed())
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

/// How many threads read: few of what the page cache has, more where they wait for the disk.
fn threads_for(file: &File, bytes: u64, threads: usize) -> Result<usize, Error> {
    let map = Mapping::new(file, bytes as usize).map_err(Error::io("mapping the snapshot"))?;
    let is_there = Mapping::may_tell(file) && map.is_resident(&(0..bytes));
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
        let mut buffer = None;
        while let Some((piece, is_last)) = self.next() {
            let done = self.open(piece, is_last, &mut buffer);
            if done.is_err() {
                // No other piece is begun.
                *self.lock() = Vec::new().into_iter();
                return done;
            }
        }
        Ok(())
    }

    fn open(&self, piece: Piece<'_>, is_last: bool, buffer: &mut Option<MmapMut>) -> Result<(), Error> {
        let Piece { number, range, tag, plain } = piece;
        if buffer.as_ref().is_none_or(|buffer| buffer.len() < plain.len()) {
            *buffer = Some(room(plain.len() as u64)?);
        }
        let bytes = buffer.as_mut().map_or(&mut [][..], |buffer| &mut buffer[..plain.len()]);
        let reading = Error::io(format!("reading bytes {:#x}..{:#x}", range.start, range.end));
        self.file.read_exact_at(bytes, range.start).map_err(reading)?;
        let associated: &[u8] = if is_last { self.page } else { &[] };
        if !open_piece(&self.key, number, associated, bytes, tag) {
            return Err(Error::Undecryptable { bytes: range });
        }
        plain.copy_from_slice(bytes);
        Ok(())
    }
}
