//! Names and bytes of blocks under a key of their scope: AES-256-GCM, keys by HKDF-SHA256 from the operator's.

use super::{
    KEY_BYTES,
    index::{Entry, Hidden},
};
use crate::engine::{Name, Scope};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    hkdf, hmac,
    rand::{SecureRandom, SystemRandom},
};
use rustix::fs::{Mode, OFlags};
use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
};

pub const NONCE_BYTES: usize = 12;
pub const TAG_BYTES: usize = 16;

/// The keys of all scopes of one identity.
pub struct Keys {
    root: hkdf::Prk,
    random: SystemRandom,
    /// Those of the scope that was last asked for.
    last: Option<(Scope, hmac::Key, LessSafeKey)>,
}

impl Keys {
    pub fn new(key: &[u8; KEY_BYTES], identity: &[u8; 32]) -> Self {
        Self {
            root: hkdf::Salt::new(hkdf::HKDF_SHA256, identity).extract(key),
            random: SystemRandom::new(),
            last: None,
        }
    }

    /// What a block is called on disk.
    pub fn name(&mut self, scope: Scope, name: &Name) -> Hidden {
        let mut hidden = Hidden::default();
        hidden.copy_from_slice(hmac::sign(self.of(scope).0, name).as_ref());
        hidden
    }

    /// Encrypts in place.
    pub fn seal(&mut self, scope: Scope, name: Hidden, bytes: &mut [u8]) -> Entry {
        let mut nonce = [0; NONCE_BYTES];
        self.random.fill(&mut nonce).expect("the system has random numbers");
        let sealed =
            self.of(scope).1.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(name), bytes);
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(sealed.expect("a block is far below the cipher's limit").as_ref());
        Entry { name, used: 0, nonce, tag }
    }

    /// Decrypts in place; false, and the bytes are of no use, where they are not what was sealed under this name.
    pub fn open(&mut self, scope: Scope, entry: &Entry, bytes: &mut [u8]) -> bool {
        let nonce = Nonce::assume_unique_for_key(entry.nonce);
        self.of(scope).1.open_in_place_separate_tag(nonce, Aad::from(entry.name), entry.tag.into(), bytes, 0..).is_ok()
    }

    fn of(&mut self, scope: Scope) -> (&hmac::Key, &LessSafeKey) {
        if self.last.as_ref().is_none_or(|(last, ..)| *last != scope) {
            let names = hmac::Key::new(hmac::HMAC_SHA256, &self.derived(scope, b"names"));
            let blocks = UnboundKey::new(&AES_256_GCM, &self.derived(scope, b"blocks"));
            let blocks = LessSafeKey::new(blocks.expect("the key has the cipher's length"));
            self.last = Some((scope, names, blocks));
        }
        let (_, names, blocks) = self.last.as_ref().expect("it was just made");
        (names, blocks)
    }

    fn derived(&self, scope: Scope, purpose: &[u8]) -> [u8; KEY_BYTES] {
        let mut key = [0; KEY_BYTES];
        let info = [purpose, &scope.0.to_le_bytes()];
        let derived = self.root.expand(&info, &AES_256_GCM).and_then(|okm| okm.fill(&mut key));
        derived.expect("one block of output is within HKDF's limit");
        key
    }
}

/// A key for one purpose.
pub fn derived(key: &[u8; KEY_BYTES], purpose: &[u8; 32]) -> [u8; KEY_BYTES] {
    let root = hkdf::Salt::new(hkdf::HKDF_SHA256, purpose).extract(key);
    let mut derived = [0; KEY_BYTES];
    let expanded = root.expand(&[b"key"], &AES_256_GCM).and_then(|okm| okm.fill(&mut derived));
    expanded.expect("one block of output is within HKDF's limit");
    derived
}

/// The key in `folder`'s file `name`; made by whoever comes first.
pub fn own_key(folder: &OwnedFd, name: &str) -> io::Result<Vec<u8>> {
    let open = |flags, mode| rustix::fs::openat(folder, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, mode);
    match open(OFlags::RDONLY, Mode::empty()) {
        Ok(file) => read(file),
        Err(rustix::io::Errno::NOENT) => {
            let mut key = [0; KEY_BYTES];
            SystemRandom::new().fill(&mut key).map_err(|_| io::Error::other("the system has no random numbers"))?;
            // Written beside and linked, so that nobody reads half of it.
            let temporary = format!(".{name}.{}", std::process::id());
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let mut file = File::from(rustix::fs::openat(folder, &temporary, flags, Mode::RUSR | Mode::WUSR)?);
            let linked = file
                .write_all(&key)
                .and_then(|()| file.sync_all())
                .and_then(|()| Ok(rustix::fs::linkat(folder, &temporary, folder, name, rustix::fs::AtFlags::empty())?));
            rustix::fs::unlinkat(folder, &temporary, rustix::fs::AtFlags::empty())?;
            match linked {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                // Another was first, or this was: what is there counts.
                _ => read(open(OFlags::RDONLY, Mode::empty())?),
            }
        }
        Err(error) => Err(error.into()),
    }
}

fn read(file: OwnedFd) -> io::Result<Vec<u8>> {
    let mut key = Vec::new();
    // One more than a key, so that a longer file is seen to be one.
    File::from(file).take(KEY_BYTES as u64 + 1).read_to_end(&mut key)?;
    Ok(key)
}
