//! The operator's key as 32 bytes: AES-256-GCM, with a part of its hash in front, so that a wrong one is called so.

use super::{DataKey, KEY_BYTES, NONCE_BYTES, cipher, from_hex, random};
use crate::Error;
use ring::aead::{Aad, Nonce};
use sha2::{Digest, Sha256};

const TAG_BYTES: usize = 16;
/// Of the operator's key, so that a wrong one is called so.
const FINGERPRINT_BYTES: usize = 8;
/// Fingerprint, nonce, key, tag.
const WRAPPED_BYTES: usize = FINGERPRINT_BYTES + NONCE_BYTES + KEY_BYTES + TAG_BYTES;

/// Such a key.
#[derive(Clone)]
pub(super) struct OwnKey([u8; KEY_BYTES]);

impl OwnKey {
    pub(super) fn random() -> Result<Self, Error> {
        let mut key = [0; KEY_BYTES];
        random(&mut key)?;
        Ok(Self(key))
    }

    /// 32 bytes as they are, or as 64 hexadecimal digits and a line's end; `None` for anything else.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let raw: Option<[u8; KEY_BYTES]> = bytes.try_into().ok();
        raw.or_else(|| from_hex(bytes.trim_ascii())?.try_into().ok()).map(Self)
    }

    /// A file's key as it lies beside the file with this digest: one line of text.
    pub(super) fn wrap(&self, key: &DataKey, digest: &[u8; 32]) -> Result<String, Error> {
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
    pub(super) fn unwrap(&self, wrapped: &[u8], digest: &[u8; 32]) -> Result<DataKey, Error> {
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
