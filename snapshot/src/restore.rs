//! Restore: a file in, tensors and sections as slices of its mapping out. The twin of `seal`.
//!
//! Opening reads the header, the table and the checksum table, and nothing else; it costs no more for a large model than
//! for a small one. **Invariant:** every range a [`Snapshot`] hands out lies within the file and was promised by a table
//! whose checksum fits; whether the bytes *in* it fit is the matter of [`Verification`] or [`Snapshot::section`].

use crate::{
    DataKey, Error, Extent, Header, Room, Section, SectionKind, TABLE_BYTES_MAX, Tensor, Verification,
    decrypt::Decryption,
    mapping::Mapping,
    read_in::ReadIn,
    table::{Arena, Table},
    verify::{self, Mode},
};
use bytes::Bytes;
use std::{
    fs::File,
    ops::Range,
    os::unix::fs::FileExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use twox_hash::XxHash3_64;

/// A mapped snapshot whose header and table have been checked.
pub struct Snapshot {
    header: Header,
    table: Table,
    /// XXH3-64 of each chunk.
    sums: Box<[u64]>,
    /// Which chunks were found to fit their sum, or decrypted. Only ever set.
    sound: Box<[AtomicBool]>,
    map: Mapping,
    /// What `map` is decrypted from.
    decryption: Option<Decryption>,
    /// What is mapped; none where the bytes were decrypted.
    file: Option<File>,
    /// It can be found out which pages are in memory.
    tells_residence: bool,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Snapshot {
    /// Opens a file by its path.
    ///
    /// # Errors
    /// As [`Snapshot::from_file`].
    pub fn open(path: &Path) -> Result<Arc<Self>, Error> {
        Self::from_file(File::open(path).map_err(Error::io(format!("opening {}", path.display())))?)
    }

    /// Maps an open file, e.g. a descriptor that was handed over.
    ///
    /// # Errors
    /// No snapshot, another version, shorter or longer than its header says, corrupt or senseless header or tables, an
    /// unknown critical section; I/O.
    pub fn from_file(file: File) -> Result<Arc<Self>, Error> {
        let header = Header::read(&file)?;
        if header.tags.is_some() {
            return Err(Error::Encrypted);
        }
        let found = file.metadata().map_err(Error::io("sizing the snapshot"))?.len();
        if found < header.file_bytes {
            return Err(Error::Truncated { expected: header.file_bytes, found });
        }
        if found > header.file_bytes {
            let problem = format!("{} bytes follow that no checksum covers", found - header.file_bytes);
            return Err(Error::invalid("end of file", header.file_bytes, problem));
        }
        // Read, not touched in the mapping: a file that was cut short is an error then.
        let read = |range: Range<u64>, content: &mut [u8]| {
            let reading = Error::io(format!("reading bytes {:#x}..{:#x}", range.start, range.end));
            file.read_exact_at(content, range.start).map_err(reading)
        };
        let (table, sums) = read_tables(&header, &read)?;
        let map = Mapping::new(&file, header.file_bytes as usize).map_err(Error::io("mapping the snapshot"))?;
        let sound = sums.iter().map(|_| AtomicBool::new(false)).collect();
        let tells_residence = Mapping::may_tell(&file);
        Ok(Arc::new(Self { header, table, sums, sound, map, decryption: None, file: Some(file), tells_residence }))
    }

    /// Decrypts an encrypted file into this process's memory on `threads` threads, as fast as it can be read; every byte of it is sound then.
    ///
    /// # Errors
    /// Not encrypted; a byte that is not what was sealed with this key; else as [`Snapshot::from_file`].
    pub fn decrypt(file: File, key: &DataKey, threads: usize) -> Result<Arc<Self>, Error> {
        Self::decrypt_into(None, file, key, threads)
    }

    /// The same, into memory that is there already; what it has too much is given back, and what it lacks is asked for.
    ///
    /// # Errors
    /// As [`Snapshot::decrypt`].
    pub fn decrypt_into(room: Option<Room>, file: File, key: &DataKey, threads: usize) -> Result<Arc<Self>, Error> {
        let snapshot = Self::begin_decryption(room, file, key)?;
        if snapshot.verify_in_background(threads).wait().is_err() {
            // What is there is not decrypted again, and what is not says why.
            (0..snapshot.chunks()).try_for_each(|chunk| snapshot.check_chunk(chunk))?;
        }
        Ok(snapshot)
    }

    /// An encrypted file that is decrypted as it is read: of tensors in place ([`Snapshot::tensor_in_place`]) a part is there once
    /// [`Verification::look_at`] was called for it, or a verification has come to it; all else that this gives is there.
    ///
    /// # Safety
    /// No byte of a tensor in place is read before [`Verification::look_at`] was called for it and has returned.
    ///
    /// # Errors
    /// Not encrypted; a header or table that is not what was sealed with this key; else as [`Snapshot::from_file`].
    #[allow(unsafe_code)]
    pub unsafe fn decrypt_as_read(room: Option<Room>, file: File, key: &DataKey) -> Result<Arc<Self>, Error> {
        Self::begin_decryption(room, file, key)
    }

    fn begin_decryption(room: Option<Room>, file: File, key: &DataKey) -> Result<Arc<Self>, Error> {
        let (header, map, decryption) = Decryption::begin(file, key, room)?;
        let size = u64::from(header.chunk_bytes);
        let read = |range: Range<u64>, content: &mut [u8]| {
            // The checksums, behind the chunks, are there.
            let end = range.end.min(header.checksums.offset);
            let mut within = if range.start < end { range.start / size..end.div_ceil(size) } else { 0..0 };
            within.try_for_each(|chunk| decryption.bring(chunk as usize, &map))?;
            content.copy_from_slice(map.slice(&range));
            Ok(())
        };
        let (table, sums) = read_tables(&header, &read)?;
        let sound = sums.iter().map(|_| AtomicBool::new(false)).collect();
        let decryption = Some(decryption);
        Ok(Arc::new(Self { header, table, sums, sound, map, decryption, file: None, tells_residence: false }))
    }

    /// The first page.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Name the model was sealed under.
    pub fn model(&self) -> &str {
        &self.header.model
    }

    /// The machine the weights are laid out for.
    pub fn target(&self) -> &str {
        &self.header.target
    }

    /// How the weights are stored: `native`, `f32` …
    pub fn weights(&self) -> &str {
        &self.header.weights_word
    }

    /// SHA-256 of the whole, hexadecimal: what the header says, checked by [`Snapshot::verify_all`].
    pub fn digest(&self) -> String {
        self.header.digest_hex()
    }

    /// Tensors in order of first use.
    pub fn tensors(&self) -> &[Tensor] {
        &self.arena().tensors
    }

    /// Extents of the weights, in order, without gaps.
    pub fn extents(&self) -> &[Extent] {
        &self.arena().extents
    }

    /// All sections, the weights and those unknown to this build included.
    pub fn sections(&self) -> &[Section] {
        &self.table.sections
    }

    /// A tensor's bytes, without a copy; they keep the mapping alive. Not verified until [`Verification`] says so.
    ///
    /// # Panics
    /// Where `tensor` is not one of this snapshot's and reaches beyond its file.
    pub fn tensor_bytes(self: &Arc<Self>, tensor: &Tensor) -> Bytes {
        // What cannot be decrypted is said by who verifies, as what is corrupt is.
        let _ = self.bring(&tensor.range());
        self.bytes_of(tensor.range())
    }

    /// The same for who says what of it is to be read before it is ([`Verification::look_at`]): what is decrypted as it is read is decrypted then.
    ///
    /// # Panics
    /// As [`Snapshot::tensor_bytes`].
    pub fn tensor_in_place(self: &Arc<Self>, tensor: &Tensor) -> Bytes {
        self.bytes_of(tensor.range())
    }

    /// Has a range of the file at its place, where that is not the file's own. Nobody is at any of it afterwards, whatever was found.
    fn bring(&self, file_range: &Range<u64>) -> Result<(), Error> {
        match self.is_decrypted() {
            true => self.chunks_of(file_range).map(|chunk| self.check_chunk(chunk)).fold(Ok(()), Result::and),
            false => Ok(()),
        }
    }

    /// A part of the mapping, which lives as long as it.
    fn bytes_of(self: &Arc<Self>, file_range: Range<u64>) -> Bytes {
        struct Owner(Arc<Snapshot>, Range<u64>);
        impl AsRef<[u8]> for Owner {
            fn as_ref(&self) -> &[u8] {
                self.0.map.slice(&self.1)
            }
        }
        Bytes::from_owner(Owner(self.clone(), file_range))
    }

    /// As [`Snapshot::section`]; the bytes keep the mapping alive.
    ///
    /// # Errors
    /// A chunk of it is corrupt, or cannot be read.
    pub fn section_bytes(self: &Arc<Self>, kind: SectionKind) -> Result<Option<Bytes>, Error> {
        let is_there = self.section(kind)?.is_some();
        let found = self.table.sections.iter().find(|section| section.known() == Some(kind)).filter(|_| is_there);
        Ok(found.map(|section| self.bytes_of(section.range())))
    }

    /// A section's bytes, not verified until [`Verification`] says so, unless they had to be decrypted; they keep the mapping alive.
    ///
    /// # Errors
    /// They cannot be decrypted.
    pub fn section_bytes_unverified(self: &Arc<Self>, kind: SectionKind) -> Result<Option<Bytes>, Error> {
        let found = self.table.sections.iter().find(|section| section.known() == Some(kind));
        found.map(|section| self.bring(&section.range()).map(|()| self.bytes_of(section.range()))).transpose()
    }

    /// A section's bytes, verified before they are returned; `None` where the snapshot has no such section.
    ///
    /// # Errors
    /// A chunk of it is corrupt, or cannot be read.
    pub fn section(&self, kind: SectionKind) -> Result<Option<&[u8]>, Error> {
        let Some(section) = self.table.sections.iter().find(|section| section.known() == Some(kind)) else {
            return Ok(None);
        };
        self.chunks_of(&section.range()).try_for_each(|chunk| self.check_chunk(chunk))?;
        Ok(Some(self.map.slice(&section.range())))
    }

    /// Reads ahead and verifies every chunk on `threads` threads (at least one), in file order.
    pub fn verify_in_background(self: &Arc<Self>, threads: usize) -> Verification {
        Verification::start(self, threads, Mode::Apart)
    }

    /// The same beside a computation that calls [`Verification::look_at`] for what it is about to read, and [`Verification::go_on`] when it has been
    /// through. The threads leave it all to that, until nothing has been looked at for `patience`.
    pub fn verify_beside(self: &Arc<Self>, threads: usize, patience: Duration) -> Verification {
        Verification::start(self, threads, Mode::Beside { patience })
    }

    /// The same as in the background of a file of which every byte was found sound before and which nobody has changed since: chunks that are in memory when it begins count
    /// as sound, those too that a section read before brought along. Those that are not, and all where the system does not say (the file is another user's), are read and verified.
    pub fn verify_again_in_background(self: &Arc<Self>, threads: usize) -> Verification {
        Verification::start(self, threads, if self.tells_residence { Mode::Again } else { Mode::Apart })
    }

    /// Whether the page cache has the file, by a page of each of some chunks that are spread over it; not where the system does not say, nor where the
    /// bytes are decrypted.
    pub fn seems_resident(&self) -> bool {
        const SAMPLES: usize = 64;
        let page = |chunk: usize| self.header.chunk_range(chunk as u64).start;
        let mut some = (0..self.chunks()).step_by(self.chunks().div_ceil(SAMPLES).max(1)).map(page);
        self.tells_residence && some.all(|at| self.map.is_resident(&(at..at + 1)))
    }

    /// Every chunk and the digest of the whole, in one pass; `progress` is told bytes done and bytes in all.
    ///
    /// # Errors
    /// The first chunk that is corrupt or cannot be read; the digest.
    pub fn verify_all(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<(), Error> {
        verify::verify_all(self, progress)
    }

    /// Reads a chunk in and compares it with its sum, or decrypts it, unless that was done before; waits where another does the latter.
    pub(crate) fn check_chunk(&self, chunk: usize) -> Result<(), Error> {
        if self.is_sound(chunk) {
            return Ok(());
        }
        if let Some(decryption) = &self.decryption {
            decryption.bring(chunk, &self.map)?;
            self.sound[chunk].store(true, Ordering::Release);
            return Ok(());
        }
        let bytes = self.header.chunk_range(chunk as u64);
        self.map.populate(&bytes)?;
        self.compare_chunk(chunk, self.map.slice(&bytes))
    }

    /// Takes a chunk for sound if it is in memory; whether it is.
    pub(crate) fn trust_chunk(&self, chunk: usize) -> bool {
        let bytes = self.header.chunk_range(chunk as u64);
        let is_there = self.map.is_resident(&bytes);
        if is_there {
            self.sound[chunk].store(true, Ordering::Release);
        }
        is_there
    }

    /// Compares a chunk's bytes, already read in, with its sum.
    pub(crate) fn compare_chunk(&self, chunk: usize, content: &[u8]) -> Result<(), Error> {
        if XxHash3_64::oneshot(content) != self.sums[chunk] {
            let bytes = self.header.chunk_range(chunk as u64);
            return Err(Error::Corrupt { chunk: Some(chunk as u64), section: self.names_in(&bytes), bytes });
        }
        self.sound[chunk].store(true, Ordering::Release);
        Ok(())
    }

    pub(crate) fn is_sound(&self, chunk: usize) -> bool {
        self.sound[chunk].load(Ordering::Acquire)
    }

    /// All chunks.
    pub(crate) fn are_sound(&self) -> bool {
        self.sound.iter().all(|sound| sound.load(Ordering::Acquire))
    }

    pub(crate) fn chunks(&self) -> usize {
        self.sums.len()
    }

    /// The chunks that hold a range of the file; none for an empty range or one behind the chunks.
    pub(crate) fn chunks_of(&self, range: &Range<u64>) -> Range<usize> {
        if range.is_empty() {
            return 0..0;
        }
        let size = u64::from(self.header.chunk_bytes);
        let last = range.end.div_ceil(size).min(self.chunks() as u64);
        (range.start / size).min(last) as usize..last as usize
    }

    pub(crate) fn mapping(&self) -> &Mapping {
        &self.map
    }

    /// Its bytes are decrypted, and not the file's own.
    pub fn is_decrypted(&self) -> bool {
        self.decryption.is_some()
    }

    /// What its bytes are decrypted by.
    pub(crate) fn decryption(&self) -> Option<&Decryption> {
        self.decryption.as_ref()
    }

    pub(crate) fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    fn arena(&self) -> &Arena {
        self.table.arenas.first().expect("a table without an arena was refused")
    }

    /// The sections that lie in a range, for messages.
    fn names_in(&self, bytes: &Range<u64>) -> String {
        let touches = |range: &Range<u64>| range.start < bytes.end && bytes.start < range.end;
        let table = self.header.table.range().filter(touches).map(|_| "table");
        let sections = self.table.sections.iter().filter(|section| touches(&section.range()));
        let names: Vec<&str> = table.into_iter().chain(sections.map(|section| section.name.as_str())).collect();
        if names.is_empty() { "padding".into() } else { names.join(", ") }
    }
}

impl ReadIn for Arc<Snapshot> {
    fn on_disk<T>(&self, what: impl FnOnce(&Mapping) -> T) -> Option<T> {
        Some(what(&self.map))
    }
}

/// Reads a range of the file, which lies within it.
type Read<'a> = &'a dyn Fn(Range<u64>, &mut [u8]) -> Result<(), Error>;

fn read_tables(header: &Header, read: Read<'_>) -> Result<(Table, Box<[u64]>), Error> {
    let table = Table::parse(&read_table(header, read)?, header)?;
    Ok((table, read_sums(header, read)?))
}

fn read_table(header: &Header, read: Read<'_>) -> Result<Vec<u8>, Error> {
    if header.table.bytes > TABLE_BYTES_MAX {
        let problem = format!("{} bytes, {TABLE_BYTES_MAX} at most", header.table.bytes);
        return Err(Error::invalid("header field table", header.table.offset, problem));
    }
    read_part(read, "table", header.table.range().unwrap_or_default(), header.table_sum)
}

fn read_sums(header: &Header, read: Read<'_>) -> Result<Box<[u64]>, Error> {
    let bytes = read_part(read, "checksums", header.checksums.range().unwrap_or_default(), header.checksums_sum)?;
    Ok(bytes.chunks_exact(8).map(|sum| u64::from_le_bytes(sum.try_into().expect("chunks of 8"))).collect())
}

/// Reads a part that has a checksum of its own, within the bounds of the file.
fn read_part(read: Read<'_>, name: &str, range: Range<u64>, sum: u64) -> Result<Vec<u8>, Error> {
    let mut content = vec![0; (range.end - range.start) as usize];
    read(range.clone(), &mut content)?;
    if XxHash3_64::oneshot(&content) != sum {
        return Err(Error::Corrupt { chunk: None, section: name.into(), bytes: range });
    }
    Ok(content)
}
