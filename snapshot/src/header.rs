//! The header: the first page of a snapshot, readable alone, without the file behind it or a mapping.
//!
//! ```text
//!    0   8  magic           89 50 4C 54 0D 0A 1A 0A  (a text-mode transfer or a stripped high bit breaks it)
//!    8   2  version         1
//!   10   2  zero
//!   12   4  required flags  a reader refuses a bit it does not know; bit 0: chunks are encrypted
//!   16   4  optional flags  a reader ignores a bit it does not know
//!   20   4  chunk bytes     power of two, 4 KiB to 64 MiB
//!   24   8  file bytes
//!   32  16  table           offset, bytes
//!   48   8  table sum       XXH3-64 of the table's bytes
//!   56  16  checksums       offset, bytes: 8 for each chunk of [0, offset), chunk 0 without the header
//!   72   8  checksums sum   XXH3-64 of the checksum table's bytes
//!   80  16  weights         offset, bytes of the first arena: what a restore makes resident
//!   96  32  digest          SHA-256 of [4096, file bytes), then of this page with digest and header sum zeroed
//!  128  16  tags            of an encrypted file: offset (the next page behind it), bytes; 16 for each chunk and for the checksums
//!  144  16  signature       reserved: offset, bytes
//!  160  16  targets         reserved: offset, bytes of an index of further arenas
//!  176  16  prefix KV       reserved: offset, bytes
//!  192  64  zero
//!  256 256  model           length (2), UTF-8
//!  512  64  target          length (2), UTF-8, e.g. portable
//!  576  64  weights word    length (2), UTF-8, e.g. native
//!  640 384  zero
//! 1024 1024 wrapped key     reserved: length (2), bytes
//! 2048 2040 zero
//! 4088   8  header sum      XXH3-64 of [0, 4088)
//! ```
//! Reserved regions are zero, or lie within the file; bytes called zero are written so and not interpreted.

use crate::{Error, PAGE_BYTES, align_up, hex};
use std::{fs::File, io, ops::Range, os::unix::fs::FileExt};
use twox_hash::XxHash3_64;

/// The format version this build writes and reads.
pub const VERSION: u16 = 1;
/// Size of the header.
pub const HEADER_BYTES: usize = 4096;
/// Longest model name in the header, in bytes.
pub const MODEL_BYTES_MAX: usize = 254;
/// Longest target or weights word in the header, in bytes.
pub const WORD_BYTES_MAX: usize = 62;

const MAGIC: [u8; 8] = *b"\x89PLT\r\n\x1a\n";
const ENCRYPTED: u32 = 1;
const CHUNK_BYTES_RANGE: Range<u32> = 4096..(64 << 20) + 1;

const AT_VERSION: usize = 8;
const AT_REQUIRED: usize = 12;
const AT_CHUNK: usize = 20;
const AT_FILE: usize = 24;
const AT_TABLE: usize = 32;
const AT_TABLE_SUM: usize = 48;
const AT_CHECKSUMS: usize = 56;
const AT_CHECKSUMS_SUM: usize = 72;
const AT_WEIGHTS: usize = 80;
const AT_DIGEST: usize = 96;
const AT_RESERVED: [(usize, &str); 4] = [(128, "tags"), (144, "signature"), (160, "targets"), (176, "prefix KV")];
const AT_TAGS: usize = 128;
const AT_MODEL: usize = 256;
const AT_TARGET: usize = 512;
const AT_WEIGHTS_WORD: usize = 576;
const AT_HEADER_SUM: usize = 4088;

/// A part of the file, in absolute bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub offset: u64,
    /// Length.
    pub bytes: u64,
}

impl Region {
    /// First byte to one behind the last; `None` beyond `u64`.
    pub fn range(self) -> Option<Range<u64>> {
        Some(self.offset..self.offset.checked_add(self.bytes)?)
    }
}

/// What the first page says. Holding one means: magic, version, checksum and every region's bounds were checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Name the model was sealed under.
    pub model: String,
    /// Machine the first arena is laid out for.
    pub target: String,
    /// How the weights are stored: the word given to `seal --weights`.
    pub weights_word: String,
    /// Size of the whole file.
    pub file_bytes: u64,
    /// Bytes under one checksum.
    pub chunk_bytes: u32,
    /// The table.
    pub table: Region,
    /// XXH3-64 of the table.
    pub table_sum: u64,
    /// The checksum table.
    pub checksums: Region,
    /// XXH3-64 of the checksum table.
    pub checksums_sum: u64,
    /// The first arena of weights.
    pub weights: Region,
    /// SHA-256 of the whole, as the layout above defines it.
    pub digest: [u8; 32],
    /// Where the tags are of a file that is encrypted; they follow it, which `file_bytes` leaves out.
    pub tags: Option<Region>,
}

impl Header {
    /// Reads and checks the first page; needs no other byte of the file and leaves the file's position alone.
    ///
    /// # Errors
    /// Not a snapshot, another version, truncated, corrupt or senseless header; I/O.
    pub fn read(file: &File) -> Result<Self, Error> {
        let mut page = [0; HEADER_BYTES];
        let got = read_up_to(file, &mut page).map_err(Error::io("reading the header"))?;
        Self::parse(&page[..got])
    }

    /// Parses the first page; `bytes` may hold more of the file.
    ///
    /// # Errors
    /// As [`Header::read`], without I/O.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let page = checked_page(bytes)?;
        let header = Self {
            model: text(page, AT_MODEL, MODEL_BYTES_MAX, "model")?,
            target: text(page, AT_TARGET, WORD_BYTES_MAX, "target")?,
            weights_word: text(page, AT_WEIGHTS_WORD, WORD_BYTES_MAX, "weights word")?,
            file_bytes: u64_at(page, AT_FILE),
            chunk_bytes: u32_at(page, AT_CHUNK),
            table: region(page, AT_TABLE),
            table_sum: u64_at(page, AT_TABLE_SUM),
            checksums: region(page, AT_CHECKSUMS),
            checksums_sum: u64_at(page, AT_CHECKSUMS_SUM),
            weights: region(page, AT_WEIGHTS),
            digest: page[AT_DIGEST..AT_DIGEST + 32].try_into().expect("32 bytes were sliced"),
            tags: (u32_at(page, AT_REQUIRED) == ENCRYPTED).then(|| region(page, AT_TAGS)),
        };
        header.check()?;
        for (at, name) in AT_RESERVED {
            if at != AT_TAGS || header.tags.is_none() {
                within(name, at, region(page, at), 0..header.file_bytes)?;
            }
        }
        Ok(header)
    }

    /// SHA-256 of the whole, hexadecimal.
    pub fn digest_hex(&self) -> String {
        hex(&self.digest)
    }

    /// Number of checksummed chunks.
    pub fn chunks(&self) -> u64 {
        self.checksums.offset.div_ceil(u64::from(self.chunk_bytes))
    }

    /// The bytes chunk `chunk` sums: chunk 0 leaves the header out, the last ends where the checksum table begins.
    pub(crate) fn chunk_range(&self, chunk: u64) -> Range<u64> {
        let size = u64::from(self.chunk_bytes);
        (chunk * size).max(HEADER_BYTES as u64)..((chunk + 1) * size).min(self.checksums.offset)
    }

    /// The page with digest and header sum still zero, as the digest sees it.
    pub(crate) fn encode_unsigned(&self) -> [u8; HEADER_BYTES] {
        let mut page = [0; HEADER_BYTES];
        page[..8].copy_from_slice(&MAGIC);
        page[AT_VERSION..AT_VERSION + 2].copy_from_slice(&VERSION.to_le_bytes());
        page[AT_CHUNK..AT_CHUNK + 4].copy_from_slice(&self.chunk_bytes.to_le_bytes());
        put(&mut page, AT_FILE, &[self.file_bytes]);
        put(&mut page, AT_TABLE, &[self.table.offset, self.table.bytes, self.table_sum]);
        put(&mut page, AT_CHECKSUMS, &[self.checksums.offset, self.checksums.bytes, self.checksums_sum]);
        put(&mut page, AT_WEIGHTS, &[self.weights.offset, self.weights.bytes]);
        for (at, word) in [(AT_MODEL, &self.model), (AT_TARGET, &self.target), (AT_WEIGHTS_WORD, &self.weights_word)] {
            page[at..at + 2].copy_from_slice(&(word.len() as u16).to_le_bytes());
            page[at + 2..at + 2 + word.len()].copy_from_slice(word.as_bytes());
        }
        page
    }

    /// The page as it is written.
    pub(crate) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut page = self.encode_unsigned();
        page[AT_DIGEST..AT_DIGEST + 32].copy_from_slice(&self.digest);
        let sum = XxHash3_64::oneshot(&page[..AT_HEADER_SUM]);
        put(&mut page, AT_HEADER_SUM, &[sum]);
        page
    }

    /// The page of the same file encrypted.
    pub(crate) fn encode_encrypted(&self, tags: Region) -> [u8; HEADER_BYTES] {
        let mut page = self.encode();
        page[AT_REQUIRED..AT_REQUIRED + 4].copy_from_slice(&ENCRYPTED.to_le_bytes());
        put(&mut page, AT_TAGS, &[tags.offset, tags.bytes]);
        let sum = XxHash3_64::oneshot(&page[..AT_HEADER_SUM]);
        put(&mut page, AT_HEADER_SUM, &[sum]);
        page
    }

    fn check(&self) -> Result<(), Error> {
        if !self.chunk_bytes.is_power_of_two() || !CHUNK_BYTES_RANGE.contains(&self.chunk_bytes) {
            return Err(bad(
                "chunk bytes",
                AT_CHUNK,
                format!("{} is no power of two from 4 KiB to 64 MiB", self.chunk_bytes),
            ));
        }
        let end = self.checksums.range().map(|range| range.end);
        if self.checksums.offset < PAGE_BYTES
            || !self.checksums.offset.is_multiple_of(PAGE_BYTES)
            || end != Some(self.file_bytes)
        {
            let problem = format!(
                "{:?} does not end the file of {} bytes, or starts off a page",
                self.checksums, self.file_bytes
            );
            return Err(bad("checksums", AT_CHECKSUMS, problem));
        }
        if self.chunks().checked_mul(8) != Some(self.checksums.bytes) {
            let problem = format!("{} bytes for {} chunks, expected 8 each", self.checksums.bytes, self.chunks());
            return Err(bad("checksums", AT_CHECKSUMS, problem));
        }
        within("table", AT_TABLE, self.table, PAGE_BYTES..self.checksums.offset)?;
        if self.table.bytes == 0 {
            return Err(bad("table", AT_TABLE, "is empty"));
        }
        within("weights", AT_WEIGHTS, self.weights, PAGE_BYTES..self.checksums.offset)?;
        let Some(tags) = self.tags else { return Ok(()) };
        let expected = (self.chunks() + 1).checked_mul(crate::encrypt::TAG_BYTES as u64);
        if Some(tags.offset) != align_up(self.file_bytes, PAGE_BYTES)
            || Some(tags.bytes) != expected
            || tags.range().is_none()
        {
            return Err(bad(
                "tags",
                AT_TAGS,
                format!("{tags:?} does not follow {} bytes, 16 a piece", self.file_bytes),
            ));
        }
        Ok(())
    }
}

/// A written page as the digest sees it: digest and header sum zeroed, reserved bytes of a newer writer as they are.
pub(crate) fn unsigned(page: &[u8]) -> Vec<u8> {
    let mut page = page.to_vec();
    page[AT_DIGEST..AT_DIGEST + 32].fill(0);
    page[AT_HEADER_SUM..AT_HEADER_SUM + 8].fill(0);
    page
}

/// Magic, version, checksum and flags, in this order: what cannot be understood is not called corrupt.
fn checked_page(bytes: &[u8]) -> Result<&[u8], Error> {
    let head = &bytes[..bytes.len().min(MAGIC.len())];
    if head.is_empty() || head != &MAGIC[..head.len()] {
        return Err(Error::NotASnapshot { found: head.to_vec() });
    }
    let page = bytes
        .get(..HEADER_BYTES)
        .ok_or(Error::Truncated { expected: HEADER_BYTES as u64, found: bytes.len() as u64 })?;
    let version = u16_at(page, AT_VERSION);
    if version != VERSION {
        return Err(Error::Version { found: version });
    }
    if XxHash3_64::oneshot(&page[..AT_HEADER_SUM]) != u64_at(page, AT_HEADER_SUM) {
        return Err(Error::Corrupt { chunk: None, section: "header".into(), bytes: 0..HEADER_BYTES as u64 });
    }
    match u32_at(page, AT_REQUIRED) {
        0 | ENCRYPTED => Ok(page),
        flags => Err(Error::UnknownCritical { what: format!("one of the header flags {flags:#x}") }),
    }
}

fn read_up_to(file: &File, page: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < page.len() {
        match file.read_at(&mut page[got..], got as u64) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

fn within(name: &str, at: usize, region: Region, bounds: Range<u64>) -> Result<(), Error> {
    if region == Region::default() {
        return Ok(());
    }
    let aligned = region.offset.is_multiple_of(PAGE_BYTES);
    match region.range() {
        Some(range) if aligned && range.start >= bounds.start && range.end <= bounds.end => Ok(()),
        _ => {
            Err(bad(name, at, format!("{region:?} starts off a page or leaves {:#x}..{:#x}", bounds.start, bounds.end)))
        }
    }
}

fn text(page: &[u8], at: usize, max: usize, name: &str) -> Result<String, Error> {
    let length = usize::from(u16_at(page, at));
    if length > max {
        return Err(bad(name, at, format!("{length} bytes, {max} at most")));
    }
    let bytes = page[at + 2..at + 2 + length].to_vec();
    String::from_utf8(bytes).map_err(|error| bad(name, at, error.to_string()))
}

fn bad(name: &str, at: usize, problem: impl Into<String>) -> Error {
    Error::invalid(format!("header field {name}"), at as u64, problem)
}

fn region(page: &[u8], at: usize) -> Region {
    Region { offset: u64_at(page, at), bytes: u64_at(page, at + 8) }
}

fn u16_at(page: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(page[at..at + 2].try_into().expect("2 bytes were sliced"))
}

fn u32_at(page: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(page[at..at + 4].try_into().expect("4 bytes were sliced"))
}

fn u64_at(page: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(page[at..at + 8].try_into().expect("8 bytes were sliced"))
}

fn put(page: &mut [u8], at: usize, values: &[u64]) {
    for (i, value) in values.iter().enumerate() {
        page[at + 8 * i..at + 8 * i + 8].copy_from_slice(&value.to_le_bytes());
    }
}
