//! A model's guests, as the configuration names them: bytes that its runtimes understand, and nobody here.
//!
//! **Invariant:** the bytes are in sealed memory: what a runtime is handed is what was read with the configuration, whatever becomes of the files.

use std::{fs::File, io, io::Write, os::fd::OwnedFd, sync::Arc};

use rustix::fs::{MemfdFlags, SealFlags};
use sha2::{Digest, Sha256};

/// See the module. Cheap to clone; two are equal if their bytes are.
#[derive(Clone, Debug)]
pub struct Plugins {
    section: Arc<OwnedFd>,
    hash: [u8; 32],
}

impl PartialEq for Plugins {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Plugins {
    /// Of a snapshot's `guests` section.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(section: &[u8]) -> io::Result<Self> {
        let memory = rustix::fs::memfd_create("guests", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let mut memory = File::from(memory);
        memory.write_all(section)?;
        let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
        rustix::fs::fcntl_add_seals(&memory, seals)?;
        Ok(Self { section: Arc::new(memory.into()), hash: Sha256::digest(section).into() })
    }

    /// To be handed to a runtime.
    pub fn descriptor(&self) -> &OwnedFd {
        &self.section
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn nobody_can_change_what_was_read() {
        let plugins = Plugins::new(b"some bytes").unwrap();
        let file = File::from(plugins.descriptor().try_clone().unwrap());
        let mut bytes = [0; 10];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"some bytes");
        assert!(file.write_at(b"x", 0).is_err() && file.set_len(3).is_err());
        assert_eq!(plugins, Plugins::new(b"some bytes").unwrap());
        assert_ne!(plugins, Plugins::new(b"other bytes").unwrap());
    }
}
