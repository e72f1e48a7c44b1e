//! A file's own key, its header, and its records: sealed for one place of one file.

use guests::{Kept, Scope};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use sha2::{Digest, Sha256};

pub const MAGIC: &[u8; 8] = b"PLSTATE1";
pub const SALT_BYTES: usize = 16;
pub const HEADER_BYTES: usize = 8 + 8 + SALT_BYTES + TAG_BYTES;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// Of a record, before plug-in, key and value: scope, times, lengths.
const FIXED_BYTES: usize = 16 + 8 + 8 + 2 + 2;
/// A record at most, sealed: a value, its key and its plug-in's name.
const RECORD_BYTES_MAX: usize = (1 << 20) + (64 << 10);
/// The header's own nonce; records have random ones.
const HEADER_NONCE: [u8; NONCE_BYTES] = [0xff; NONCE_BYTES];

/// A file's key, and what is bound to it.
pub struct Sealing {
    pub generation: u64,
    salt: [u8; SALT_BYTES],
    key: LessSafeKey,
}

impl Sealing {
    pub fn new(root: &[u8; 32], generation: u64, salt: [u8; SALT_BYTES]) -> Self {
        let own =
            Sha256::new().chain_update(b"pilotlight state file\0").chain_update(root).chain_update(salt).finalize();
        let key = UnboundKey::new(&AES_256_GCM, &own).expect("the key has the cipher's length");
        Self { generation, salt, key: LessSafeKey::new(key) }
    }

    pub fn fresh(root: &[u8; 32], generation: u64) -> Self {
        let mut salt = [0; SALT_BYTES];
        SystemRandom::new().fill(&mut salt).expect("the system has random numbers");
        Self::new(root, generation, salt)
    }

    pub fn header(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(MAGIC);
        header[8..16].copy_from_slice(&self.generation.to_le_bytes());
        header[16..16 + SALT_BYTES].copy_from_slice(&self.salt);
        let nonce = Nonce::assume_unique_for_key(HEADER_NONCE);
        let tag = self.key.seal_in_place_separate_tag(nonce, Aad::from(&header[..16 + SALT_BYTES]), &mut []);
        let tag = tag.expect("nothing is below the cipher's limit");
        header[16 + SALT_BYTES..].copy_from_slice(tag.as_ref());
        header
    }

    /// A record for this place.
    pub fn seal(&self, kept: &Kept, offset: u64) -> Vec<u8> {
        let mut nonce = [0; NONCE_BYTES];
        SystemRandom::new().fill(&mut nonce).expect("the system has random numbers");
        let mut sealed = plain(kept);
        let place = Aad::from(offset.to_le_bytes());
        let done = self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), place, &mut sealed);
        done.expect("a value is far below the cipher's limit");
        [&(sealed.len() as u32).to_le_bytes()[..], &nonce, &sealed].concat()
    }

    /// The record at an offset, and where the next is.
    pub fn open(&self, bytes: &mut [u8], offset: usize) -> Result<(Kept, usize), Bad> {
        let (_, rest) = bytes.split_at_mut(offset);
        let (length, rest) = rest.split_at_mut_checked(4).ok_or(Bad::Torn)?;
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        if !(FIXED_BYTES + TAG_BYTES..=RECORD_BYTES_MAX).contains(&length) {
            // Where a file's end was not written, there are zeros.
            return Err(if rest.iter().all(|byte| *byte == 0) { Bad::Torn } else { Bad::Damaged });
        }
        // Or nothing but zeros is behind it.
        let is_last = rest.iter().skip(NONCE_BYTES + length).all(|byte| *byte == 0);
        let (nonce, rest) = rest.split_at_mut_checked(NONCE_BYTES).ok_or(Bad::Torn)?;
        let (sealed, _) = rest.split_at_mut_checked(length).ok_or(Bad::Torn)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).expect("it has a nonce's length");
        let opened = self.key.open_in_place(nonce, Aad::from((offset as u64).to_le_bytes()), sealed);
        let record = opened.map_err(|_| if is_last { Bad::Torn } else { Bad::Damaged })?;
        Ok((parse(record).ok_or(Bad::Damaged)?, offset + 4 + NONCE_BYTES + length))
    }
}

/// Why a record does not open.
pub enum Bad {
    /// The file ends in it.
    Torn,
    /// It is not what was written here.
    Damaged,
}

fn plain(kept: &Kept) -> Vec<u8> {
    let length = |text: &str| u16::try_from(text.len()).unwrap_or(u16::MAX).to_le_bytes();
    let mut plain = Vec::with_capacity(FIXED_BYTES + kept.plugin.len() + kept.key.len() + kept.bytes.len() + TAG_BYTES);
    plain.extend_from_slice(&kept.scope.0.to_le_bytes());
    plain.extend_from_slice(&kept.at_ms.to_le_bytes());
    plain.extend_from_slice(&kept.until_ms.unwrap_or(u64::MAX).to_le_bytes());
    plain.extend_from_slice(&length(&kept.plugin));
    plain.extend_from_slice(&length(&kept.key));
    plain.extend_from_slice(kept.plugin.as_bytes());
    plain.extend_from_slice(kept.key.as_bytes());
    plain.extend_from_slice(&kept.bytes);
    plain
}

fn parse(plain: &[u8]) -> Option<Kept> {
    let (scope, rest) = plain.split_first_chunk()?;
    let (at, rest) = rest.split_first_chunk()?;
    let (until, rest) = rest.split_first_chunk()?;
    let (plugin, rest) = rest.split_first_chunk()?;
    let (key, rest) = rest.split_first_chunk()?;
    let (plugin, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes(*plugin)))?;
    let (key, bytes) = rest.split_at_checked(usize::from(u16::from_le_bytes(*key)))?;
    let text = |bytes: &[u8]| Some(std::str::from_utf8(bytes).ok()?.to_owned());
    Some(Kept {
        plugin: text(plugin)?,
        scope: Scope(u128::from_le_bytes(*scope)),
        key: text(key)?,
        bytes: bytes.to_vec(),
        at_ms: u64::from_le_bytes(*at),
        until_ms: Some(u64::from_le_bytes(*until)).filter(|until| *until != u64::MAX),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn what_was_written_is_read(plugin in ".{0,20}", key in ".{0,20}", bytes: Vec<u8>, scope: u128, at_ms: u64, until in proptest::option::of(0..u64::MAX)) {
            let kept = Kept { plugin, scope: Scope(scope), key, bytes, at_ms, until_ms: until };
            proptest::prop_assert_eq!(parse(&plain(&kept)), Some(kept));
        }

        #[test]
        fn foreign_bytes_are_no_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
