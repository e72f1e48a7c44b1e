//! An encrypted file → its plain bytes in memory, piece by piece, in whatever order they are wanted.
//!
//! **Contract:** a piece is read to its place and decrypted there once, by whoever comes for it first, while that processor's cache has it; whoever else comes
//! for it meanwhile waits. The last piece, with which the header is authenticated, is there from the beginning. A piece that is not what was sealed, or
//! cannot be read, is an error for each who comes for it, and what lies in its place is of no use.
//!
//! The dearest part is fresh memory, so the room may have been made ready before.

use crate::{
    DataKey, Error, HEADER_BYTES, Header, Region,
    encrypt::{TAG_BYTES, open_piece, piece_ranges},
    mapping::Mapping,
    pages::Pages,
    read_in::{self, ReadIn},
    room::Room,
};
use ring::aead::LessSafeKey;
use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

/// An encrypted file under way to memory.
pub(crate) struct Decryption {
    /// Gone once all pieces are there.
    source: Mutex<Option<Arc<Source>>>,
    pieces: Box<[Piece]>,
    /// The last piece's associated data.
    page: Box<[u8; HEADER_BYTES]>,
    /// How many pieces nobody has come for yet, or is at.
    left: AtomicUsize,
    /// Of the memory that they go to.
    pages: Pages,
}

/// What is decrypted, and by what.
pub(crate) struct Source {
    file: File,
    /// The encrypted bytes, which are where the plain ones go, and the tags behind them.
    map: Mapping,
    key: LessSafeKey,
}

/// A part of the file under one tag.
struct Piece {
    range: Range<u64>,
    tag: [u8; TAG_BYTES],
    /// It is at its place, or why it will not be.
    there: OnceLock<Result<(), Missing>>,
}

/// Why a piece is not there.
#[derive(Debug)]
enum Missing {
    Undecryptable,
    Unreadable(io::ErrorKind, String),
}

impl Decryption {
    /// The plain header, and memory in which header and checksums are there, and all else is still to come. Threads begin to read the file into the page cache before anything
    /// of it is authenticated, and end soon after this was an error or what it gives is gone.
    ///
    /// # Errors
    /// Not encrypted; shorter than its header says; a header that is not what was sealed with this key; no memory; I/O.
    pub(crate) fn begin(file: File, key: &DataKey, room: Option<Room>) -> Result<(Header, Mapping, Self), Error> {
        let header = Header::read(&file)?;
        let Some(tags_at) = header.tags else {
            return Err(Error::Key { problem: "it is not encrypted".into() });
        };
        let end = tags_at.offset + tags_at.bytes;
        let found = file.metadata().map_err(Error::io("sizing the snapshot"))?.len();
        if found != end {
            return Err(Error::Truncated { expected: end, found });
        }
        let map = Mapping::new(&file, end as usize).map_err(Error::io("mapping the snapshot"))?;
        let source = Arc::new(Source { file, map, key: key.cipher() });
        source.read_in(&header);
        let tags = read_tags(&source.file, &header, tags_at)?;
        let plain = Header { tags: None, ..header };
        let page = Box::new(plain.encode());
        let mut room = room.map_or_else(|| Room::huge(plain.file_bytes), Ok)?.resized(plain.file_bytes)?;
        room.bytes_mut()[..HEADER_BYTES].copy_from_slice(&*page);
        let pieces = piece_ranges(&plain).zip(tags.as_chunks::<TAG_BYTES>().0);
        let pieces: Box<[_]> = pieces.map(|(range, tag)| Piece { range, tag: *tag, there: OnceLock::new() }).collect();
        let left = AtomicUsize::new(pieces.len());
        let decryption = Self { source: Mutex::new(Some(source)), pieces, page, left, pages: Pages::default() };
        let memory = Mapping::of_memory(room.into_memory());
        decryption.bring(decryption.pieces.len() - 1, &memory)?;
        Ok((plain, memory, decryption))
    }

    /// What is decrypted, as long as some of it is to come.
    pub(crate) fn source(&self) -> Option<Arc<Source>> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The page cache has a page of each piece, as far as can be found out; or none is to come.
    pub(crate) fn is_resident(&self) -> bool {
        let pieces = self.pieces.iter().map(|piece| piece.range.clone());
        self.source().is_none_or(|source| source.has_read(pieces))
    }

    /// Returns when a piece is at its place in `memory`, the one that was begun with.
    ///
    /// # Errors
    /// It cannot be read, or is not what was sealed.
    #[allow(unsafe_code)]
    pub(crate) fn bring(&self, number: usize, memory: &Mapping) -> Result<(), Error> {
        let piece = &self.pieces[number];
        let mut is_last = false;
        let there = piece.there.get_or_init(|| {
            // SAFETY: the memory is not sealed, as this piece is not there. Pieces do not overlap, of each one thread comes here once (a second time only after a panic
            // of the first), and nobody reads it before, by the invariant of `mapping`.
            let place = unsafe { memory.place(&piece.range) };
            self.pages.touch(memory, place);
            let opened = self.open(number, place);
            is_last = self.left.fetch_sub(1, Ordering::AcqRel) == 1;
            opened
        });
        if is_last {
            drop(self.source.lock().unwrap_or_else(PoisonError::into_inner).take());
            memory.seal();
        }
        there.as_ref().copied().map_err(|missing| missing.error(&piece.range))
    }

    fn open(&self, number: usize, place: &mut [u8]) -> Result<(), Missing> {
        let Piece { range, tag, .. } = &self.pieces[number];
        let gone = || Missing::Unreadable(io::ErrorKind::Other, "all of it was there".into());
        let Source { file, map, key } = &*self.source().ok_or_else(gone)?;
        if !map.is_resident(range) {
            // As those who read ahead ask for it: for huge pages, where the file system has such. What cannot be read is said below.
            let _ = map.populate(range);
        }
        let read = file.read_exact_at(place, range.start);
        read.map_err(|error| Missing::Unreadable(error.kind(), error.to_string()))?;
        let associated: &[u8] = if number + 1 == self.pieces.len() { &*self.page } else { &[] };
        let is_sealed = open_piece(key, number as u64, associated, place, *tag);
        if is_sealed { Ok(()) } else { Err(Missing::Undecryptable) }
    }
}

impl Source {
    /// Begins to read in what is not in the page cache: what is wanted first, and then all.
    fn read_in(self: &Arc<Self>, header: &Header) {
        if self.has_read(piece_ranges(header)) {
            // Decrypting reads from the page cache itself, and maps nothing.
            return;
        }
        self.map.read_ahead(&(header.checksums.offset..self.map.len()));
        read_in::start(Arc::downgrade(self), 0..header.file_bytes);
    }

    /// The page cache has a page of each piece, as far as can be found out.
    fn has_read(&self, mut pieces: impl Iterator<Item = Range<u64>>) -> bool {
        Mapping::may_tell(&self.file) && pieces.all(|piece| self.map.is_resident(&(piece.start..piece.start + 1)))
    }
}

impl ReadIn for Weak<Source> {
    fn on_disk<T>(&self, what: impl FnOnce(&Mapping) -> T) -> Option<T> {
        self.upgrade().map(|source| what(&source.map))
    }
}

impl Missing {
    fn error(&self, range: &Range<u64>) -> Error {
        match self {
            Self::Undecryptable => Error::Undecryptable { bytes: range.clone() },
            Self::Unreadable(kind, why) => {
                let reading = format!("reading bytes {:#x}..{:#x}", range.start, range.end);
                Error::io(reading)(io::Error::new(*kind, why.clone()))
            }
        }
    }
}

/// The tags, which end the file; between them and what is encrypted are zeros.
fn read_tags(file: &File, header: &Header, at: Region) -> Result<Vec<u8>, Error> {
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
