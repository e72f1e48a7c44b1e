//! API keys: `pl_ID_SECRET`, of which a configuration holds `pl_ID:SHA256` and no secret.
//!
//! The secret is 256 random bits, so one round of SHA-256 hides it: nobody can try them out (slow hashes are for secrets that people choose).
//! The ID is no secret; it finds the hash, and that is compared in constant time, also where there is no such ID.

use std::{collections::HashMap, fmt, str::FromStr};

use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// How every key begins.
pub const PREFIX: &str = "pl_";
const ID_BYTES: usize = 6;
const SECRET_BYTES: usize = 32;
/// No longer text is looked at.
const KEY_BYTES_MAX: usize = 256;

/// What is kept of a key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyHash {
    /// `pl_…`, as it stands in logs and in the audit.
    pub id: String,
    /// SHA-256 of the whole key.
    digest: [u8; 32],
}

/// No key's hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no key's hash, which looks like pl_1a2b3c4d5e6f:64 hexadecimal digits; make one with: pilotlight key new"
)]
pub struct NotAKey(String);

impl KeyHash {
    /// A new key, to be shown once, and what to keep of it.
    ///
    /// # Errors
    /// Where the system has no random numbers.
    pub fn new() -> Result<(String, Self), ring::error::Unspecified> {
        let (mut id, mut secret) = ([0; ID_BYTES], [0; SECRET_BYTES]);
        let random = SystemRandom::new();
        random.fill(&mut id)?;
        random.fill(&mut secret)?;
        let id = format!("{PREFIX}{}", hex(&id));
        let key = format!("{id}_{}", hex(&secret));
        let digest = Sha256::digest(key.as_bytes()).into();
        Ok((key, Self { id, digest }))
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.id, hex(&self.digest))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

impl FromStr for KeyHash {
    type Err = NotAKey;

    fn from_str(text: &str) -> Result<Self, NotAKey> {
        // A key itself, pasted where its hash belongs, is not repeated.
        let wrong = || NotAKey(text.chars().take(PREFIX.len() + 2 * ID_BYTES).collect());
        let (id, digest) = text.split_once(':').ok_or_else(wrong)?;
        let named = id.strip_prefix(PREFIX).is_some_and(|rest| rest.len() == 2 * ID_BYTES && is_hex(rest));
        if !(named && digest.len() == 64 && is_hex(digest)) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digest.as_bytes().chunks(2)) {
            let pair = str::from_utf8(pair).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Self { id: id.to_owned(), digest: bytes })
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Keys, and what each is good for.
#[derive(Clone, Debug)]
pub struct Keys<T> {
    by_id: HashMap<String, (KeyHash, T)>,
}

impl<T> Default for Keys<T> {
    fn default() -> Self {
        Self { by_id: HashMap::new() }
    }
}

impl<T> Keys<T> {
    /// One more; false where another has its ID.
    pub fn add(&mut self, key: KeyHash, of: T) -> bool {
        self.by_id.insert(key.id.clone(), (key, of)).is_none()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// The ID of a presented key and what it is good for.
    pub fn find(&self, presented: &str) -> Option<(&str, &T)> {
        let presented = presented.get(..KEY_BYTES_MAX).unwrap_or(presented);
        let id = presented.rsplit_once('_').map_or("", |(id, _)| id);
        let found = self.by_id.get(id);
        // As much is done for an ID that there is not.
        let kept = found.map_or([0; 32], |(key, _)| key.digest);
        let digest: [u8; 32] = Sha256::digest(presented.as_bytes()).into();
        let same = bool::from(digest.ct_eq(&kept));
        found.filter(|_| same).map(|(key, of)| (key.id.as_str(), of))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_by_itself_alone() {
        let mut keys = Keys::default();
        let made: Vec<_> = (0..3).map(|of| (KeyHash::new().unwrap(), of)).collect();
        for ((_, hash), of) in &made {
            assert!(keys.add(hash.clone(), *of));
            assert!(!keys.add(hash.clone(), *of), "the same ID twice");
        }
        for ((key, hash), of) in &made {
            assert_eq!(keys.find(key), Some((hash.id.as_str(), of)));
            let other = format!("{}0", &key[..key.len() - 1]);
            let another = format!("{}1", &key[..key.len() - 1]);
            assert!(keys.find(&other).is_none() || keys.find(&another).is_none());
            assert_eq!(keys.find(&hash.to_string()), None, "its hash is no key");
            assert_eq!(keys.find(&hash.id), None);
        }
        assert_eq!(keys.find(""), None);
        assert_eq!(keys.find(&"_".repeat(100_000)), None);
        assert_eq!(keys.find(&"ä".repeat(1000)), None);
    }

    #[test]
    fn hashes_are_read_as_they_were_written_and_show_no_key() {
        let (key, hash) = KeyHash::new().unwrap();
        assert_eq!(hash.to_string().parse(), Ok(hash.clone()));
        let secret = key.rsplit_once('_').unwrap().1;
        let told = key.parse::<KeyHash>().unwrap_err().to_string();
        assert!(!told.contains(secret) && !format!("{hash:?}").contains(secret), "{told}");
        for text in ["", ":", "pl_", "pl_1a2b3c4d5e6f:", "pl_1a2b3c4d5e6f:xy", "1a2b3c4d5e6f:00"] {
            assert!(text.parse::<KeyHash>().is_err(), "{text}");
        }
    }
}
