//! Encryption at rest: pieces of the plain file under AES-256-GCM with a key of the file's own, which lies beside it wrapped by the
//! operator's. Who removes the wrapped key, or loses the operator's, has deleted the snapshot.
//!
//! A file is the plain one with these differences: the header has the flag and the place of the tags, everything behind it is encrypted in
//! place, piece by piece, and the tags follow. A piece is a chunk; the last one is the checksums. Piece `i` has the nonce `i` and the tag `i`;
//! the last one's associated data is the plain header, and with it the digest.
//!
//! **Contract:** what [`crate::Snapshot::decrypt`] gives is the plain file, bit for bit, in this process's memory, read-only; or an
//! error that says which bytes are not what was sealed. [`crate::Snapshot::decrypt_as_read`] gives the same, piece by piece.

use crate::{Header, keys::NONCE_BYTES};
use ring::aead::{Aad, LessSafeKey, Nonce};
use std::{io, ops::Range};

/// Bytes of a piece's tag.
pub(crate) const TAG_BYTES: usize = 16;

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

/// Decrypts a piece in place; false, and the bytes are of no use, where they are not what was sealed.
pub(crate) fn open_piece(
    key: &LessSafeKey,
    piece: u64,
    associated: &[u8],
    bytes: &mut [u8],
    tag: [u8; TAG_BYTES],
) -> bool {
    key.open_in_place_separate_tag(nonce(piece), Aad::from(associated), tag.into(), bytes, 0..).is_ok()
}

/// Where the pieces are, in the order of the file: the chunks, and behind the last of them the checksums.
pub(crate) fn piece_ranges(header: &Header) -> impl Iterator<Item = Range<u64>> {
    (0..header.chunks()).map(|chunk| header.chunk_range(chunk)).chain(header.checksums.range())
}
