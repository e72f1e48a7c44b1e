//! Encryption at rest: pieces of the plain file under AES-256-GCM with a key of the file's own, which lies beside it wrapped by the
//! operator's. Who removes the wrapped key, or loses the operator's, has deleted the snapshot.
//!
//! A file is the plain one with these differences: the header has the flag and the place of the tags, everything behind it is encrypted in
//! place, piece by piece, and the tags follow. A piece is a chunk; the last one is the checksums. Piece `i` has the nonce `i` and the tag `i`;
//! the last one's associated data is the plain header, and with it the digest.
//!
//! **Contract:** what [`decrypt`] gives is the plain file, bit for bit, in memory that has no name and cannot be changed any more; or an
//! error that says which bytes are not what was sealed.

use crate::{Error, HEADER_BYTES, Header};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use rustix::fs::{MemfdFlags, SealFlags};
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
/// Bytes of a piece's tag.
pub(crate) const TAG_BYTES: usize = 16;
const NONCE_BYTES: usize = 12;
/// Of the operator's key, so that a wrong one is called so.
const FINGERPRINT_BYTES: usize = 8;
/// Fingerprint, nonce, key, tag.
const WRAPPED_BYTES: usize = FINGERPRINT_BYTES + NONCE_BYTES + KEY_BYTES + TAG_BYTES;
/// Threads that decrypt.
const THREADS_MAX: usize = 64;

/// The operator's key.
#[derive(Clone)]
pub struct OperatorKey([u8; KEY_BYTES]);

/// A file's own key.
#[derive(Clone)]
pub struct DataKey([u8; KEY_BYTES]);

impl std::fmt::Debug for OperatorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OperatorKey(…)")
    }
}

impl std::fmt::Debug for DataKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DataKey(…)")
    }
}

impl OperatorKey {
    /// 32 bytes as they are, or as 64 hexadecimal digits and a line's end; `None` for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let raw: Option<[u8; KEY_BYTES]> = bytes.try_into().ok();
        raw.or_else(|| from_hex(bytes.trim_ascii())?.try_into().ok()).map(Self)
    }

    /// A file's key as it lies beside the file with this digest: one line of text.
    pub(crate) fn wrap(&self, key: &DataKey, digest: &[u8; 32]) -> Result<String, Error> {
        let mut nonce = [0; NONCE_BYTES];
        random(&mut nonce)?;
        let mut wrapped = key.0;
        let sealed = cipher(&self.0).seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(digest),
            &mut wrapped,
        );
        let tag = sealed.map_err(|_| Error::plan("encryption", "the key cannot be wrapped"))?;
        let parts = [&self.fingerprint()[..], &nonce, &wrapped, tag.as_ref()].concat();
        Ok(format!("{}\n", crate::hex(&parts)))
    }

    /// The reverse.
    ///
    /// # Errors
    /// [`Error::Key`]: no wrapped key, another operator's, or another file's.
    pub fn unwrap(&self, wrapped: &[u8], digest: &[u8; 32]) -> Result<DataKey, Error> {
        let key = |problem: &str| Error::Key { problem: problem.into() };
        let parts = from_hex(wrapped.trim_ascii()).filter(|parts| parts.len() == WRAPPED_BYTES);
        let parts = parts.ok_or_else(|| key("what lies beside it is no wrapped key"))?;
        let (fingerprint, rest) = parts.split_at(FINGERPRINT_BYTES);
        if fingerprint != self.fingerprint() {
            return Err(key("it was sealed with another key than the one that was given"));
        }
        let (nonce, sealed) = rest.split_at(NONCE_BYTES);
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| key("the wrapped key has no nonce"))?;
        let mut sealed = sealed.to_vec();
        let opened = cipher(&self.0).open_in_place(nonce, Aad::from(digest), &mut sealed);
        let opened = opened.map_err(|_| key("the wrapped key is corrupt, or of another snapshot"))?;
        Ok(DataKey(<[u8; KEY_BYTES]>::try_from(&*opened).map_err(|_| key("the wrapped key is of another length"))?))
    }

    fn fingerprint(&self) -> [u8; FINGERPRINT_BYTES] {
        let hash = Sha256::new().chain_update(b"pilotlight operator key").chain_update(self.0).finalize();
        hash.first_chunk().copied().unwrap_or_default()
    }
}

impl DataKey {
    /// A new one.
    pub(crate) fn random() -> Result<Self, Error> {
        let mut key = [0; KEY_BYTES];
        random(&mut key)?;
        Ok(Self(key))
    }

    pub(crate) fn cipher(&self) -> LessSafeKey {
        cipher(&self.0)
    }
}

fn random(bytes: &mut [u8]) -> Result<(), Error> {
    let none = |_| Error::io("asking for random bytes")(io::Error::other("the system has none"));
    SystemRandom::new().fill(bytes).map_err(none)
}

fn cipher(key: &[u8; KEY_BYTES]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("the key has the cipher's length"))
}

fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let bytes = pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect();
    if rest.is_empty() { bytes } else { None }
}

fn nonce(piece: u64) -> Nonce {
    let mut nonce = [0; NONCE_BYTES];
    nonce[..8].copy_from_slice(&piece.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

/// Encrypts a piece in place; its tag. Each piece of a file once, as its number is its nonce.
pub(crate) fn seal_piece(
    key: &LessSafeKey,
    piece: u64,
    associated: &[u8],
    bytes: &mut [u8],
) -> io::Result<[u8; TAG_BYTES]> {
    let tag = key.seal_in_place_separate_tag(nonce(piece), Aad::from(associated), bytes);
    let tag = tag.map_err(|_| io::Error::other("a piece cannot be encrypted"))?;
    Ok(tag.as_ref().first_chunk().copied().unwrap_or_default())
}

/// The plain file of an encrypted one, in memory.
///
/// # Errors
/// Not encrypted; shorter than its header says; a piece that is not what was sealed with this key; I/O.
pub fn decrypt(file: &File, key: &DataKey, threads: usize) -> Result<File, Error> {
    let header = Header::read(file)?;
    let Some(tags_at) = header.tags else {
        return Err(Error::Key { problem: "it is not encrypted".into() });
    };
    let found = file.metadata().map_err(Error::io("sizing the snapshot"))?.len();
    let expected = tags_at.offset + tags_at.bytes;
    if found != expected {
        return Err(Error::Truncated { expected, found });
    }
    let mut tags = vec![0; tags_at.bytes as usize];
    file.read_exact_at(&mut tags, tags_at.offset).map_err(Error::io("reading the tags"))?;
    let gap = header.file_bytes..tags_at.offset;
    let mut between = vec![0; (gap.end - gap.start) as usize];
    file.read_exact_at(&mut between, gap.start).map_err(Error::io("reading behind the checksums"))?;
    if between.iter().any(|byte| *byte != 0) {
        return Err(Error::Undecryptable { bytes: gap });
    }
    let memory = rustix::fs::memfd_create("pilotlight-snapshot", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
    let memory = File::from(memory.map_err(|error| Error::io("making room in memory")(error.into()))?);
    memory.set_len(header.file_bytes).map_err(Error::io("making room in memory"))?;
    let plain = Header { tags: None, ..header.clone() };
    let page = plain.encode();
    let work = Work {
        file,
        memory: &memory,
        key: key.cipher(),
        header: &plain,
        page: &page,
        tags: &tags,
        next: AtomicU64::new(0),
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.clamp(1, THREADS_MAX)).map(|_| scope.spawn(|| work.run())).collect();
        let panicked = || Error::io("decrypting")(io::Error::other("a thread panicked"));
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| panicked())?)
    })?;
    memory.write_all_at(&page, 0).map_err(Error::io("writing to memory"))?;
    let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&memory, seals).map_err(|error| Error::io("sealing memory")(error.into()))?;
    Ok(memory)
}

struct Work<'a> {
    file: &'a File,
    memory: &'a File,
    key: LessSafeKey,
    header: &'a Header,
    page: &'a [u8; HEADER_BYTES],
    tags: &'a [u8],
    next: AtomicU64,
}

impl Work<'_> {
    fn run(&self) -> Result<(), Error> {
        let mut bytes = Vec::new();
        loop {
            let piece = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(range) = piece_range(self.header, piece) else { return Ok(()) };
            bytes.resize((range.end - range.start) as usize, 0);
            let doing = |what: &str| Error::io(format!("{what} bytes {:#x}..{:#x}", range.start, range.end));
            self.file.read_exact_at(&mut bytes, range.start).map_err(doing("reading"))?;
            let tag = self.tags.as_chunks::<TAG_BYTES>().0[piece as usize];
            let associated: &[u8] = if piece == self.header.chunks() { self.page } else { &[] };
            let opened =
                self.key.open_in_place_separate_tag(nonce(piece), Aad::from(associated), tag.into(), &mut bytes, 0..);
            if opened.is_err() {
                // No other piece is begun.
                self.next.store(u64::MAX / 2, Ordering::Relaxed);
                return Err(Error::Undecryptable { bytes: range });
            }
            self.memory.write_all_at(&bytes, range.start).map_err(doing("writing to memory"))?;
        }
    }
}

/// Where a piece is: a chunk, or behind the last of them the checksums.
fn piece_range(header: &Header, piece: u64) -> Option<Range<u64>> {
    match piece.cmp(&header.chunks()) {
        std::cmp::Ordering::Less => Some(header.chunk_range(piece)),
        std::cmp::Ordering::Equal => header.checksums.range(),
        std::cmp::Ordering::Greater => None,
    }
}
