//! Keys and values on disk, so that they outlive the process: what a conversation has computed is there after the model went to zero.
//!
//! Two files in the operator's folder for each identity (all that a block's bits depend on beside its tokens): `NAME.blocks` has
//! records of one size, `NAME.index` what lies in each ([`index`]). A record that is not whole, not ours or of another key does not
//! open ([`seal`]), and is then as if it had never been: nothing here is ever an error to who asks, who only computes what is missing.
//!
//! **Invariants:** blocks are encrypted under a key of their scope and found by a name that only the scope's key makes, so no scope
//! finds another's, nor learns that it is there; the files never grow beyond their budget: the least recently used goes, the end of a
//! conversation before its beginning. One process has an identity's files at a time; a second one does without.

mod index;
mod seal;

use super::engine::{Keep, Name, Scope};
use index::{ENTRY_BYTES, Entry, Index};
use rustix::fs::{FlockOperation, Mode, OFlags};
use seal::Keys;
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    os::unix::fs::FileExt,
    path::Path,
    sync::Arc,
};

/// Records start on a multiple of this.
const RECORD_ALIGN: usize = 4096;
/// So many records at most, whatever the budget: their index is in memory.
const RECORDS_MAX: u64 = 1 << 20;
/// A key: AES-256's.
pub const KEY_BYTES: usize = 32;
const KEY_FILE: &str = "key";

/// Where keys and values are kept, and how much; opened when the process starts.
#[derive(Debug)]
pub struct Folder {
    folder: OwnedFd,
    key: [u8; KEY_BYTES],
    bytes: u64,
}

impl Folder {
    /// Opens `path`, made if need be, with the key in `key`, or, where none is named, in the folder's own file `key`, made if need be.
    /// `bytes`: for each model at most.
    ///
    /// # Errors
    /// What cannot be opened or made; a key of another length.
    pub fn open(path: &Path, key: Option<&Path>, bytes: u64) -> io::Result<Self> {
        let named = |e: io::Error, path: &Path| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
        std::fs::create_dir_all(path).map_err(|e| named(e, path))?;
        let folder = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let folder = folder.map_err(|e| named(e.into(), path))?;
        let (key, at) = match key {
            Some(file) => (std::fs::read(file), file.to_owned()),
            None => (seal::own_key(&folder, KEY_FILE), path.join(KEY_FILE)),
        };
        let key = key.map_err(|e| named(e, &at))?;
        let wrong = || named(io::Error::other(format!("a key has {KEY_BYTES} bytes, this one {}", key.len())), &at);
        Ok(Self { folder, key: key.as_slice().try_into().map_err(|_| wrong())?, bytes })
    }
}

impl Folder {
    /// Its file of this name, to read and write; made if need be.
    ///
    /// # Errors
    /// What the system says.
    pub fn file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(File::from(rustix::fs::openat(&self.folder, name, flags, Mode::RUSR | Mode::WUSR)?))
    }

    /// A key for one purpose, from the folder's own.
    pub fn derived(&self, purpose: &[u8; 32]) -> [u8; KEY_BYTES] {
        seal::derived(&self.key, purpose)
    }
}

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

/// What a block's bits depend on beside its tokens and its scope.
#[derive(Clone, Debug)]
pub struct Identity<'a> {
    /// The snapshot's.
    pub digest: &'a [u8; 32],
    /// The kernels' instructions.
    pub instruction_set: &'a str,
    /// Precision of keys and values.
    pub kv_format: &'a str,
    /// All layers'.
    pub block_bytes: usize,
}

impl Identity<'_> {
    fn hash(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in [env!("CARGO_PKG_VERSION"), self.instruction_set, self.kv_format] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        hash.update(self.digest);
        hash.update((self.block_bytes as u64).to_le_bytes());
        hash.update((kernels::BLOCK_TOKENS as u64).to_le_bytes());
        hash.finalize().into()
    }
}

/// The blocks of one identity.
pub struct KvStore {
    blocks: File,
    entries: File,
    index: Index,
    keys: Keys,
    block_bytes: usize,
    record_bytes: usize,
    /// A record as it is read and written.
    record: Vec<u8>,
    /// The disk is full or fails: said once, and nothing more is written.
    broken: bool,
}

impl KvStore {
    /// Opens an identity's files.
    ///
    /// # Errors
    /// What cannot be opened; another process has them.
    pub fn open(folder: &Arc<Folder>, identity: &Identity<'_>) -> io::Result<Self> {
        let hash = identity.hash();
        let name: String = hash[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        let open = |suffix: &str| folder.file(&format!("{name}.{suffix}"));
        let (entries, blocks) = (open("index")?, open("blocks")?);
        rustix::fs::flock(&entries, FlockOperation::NonBlockingLockExclusive)?;
        let record_bytes = identity.block_bytes.next_multiple_of(RECORD_ALIGN);
        let records = (folder.bytes / (record_bytes + ENTRY_BYTES) as u64).min(RECORDS_MAX) as usize;
        // Of a larger budget before.
        for (file, each) in [(&entries, ENTRY_BYTES), (&blocks, record_bytes)] {
            let most = (records * each) as u64;
            if file.metadata()?.len() > most {
                file.set_len(most)?;
            }
        }
        let mut bytes = vec![0; entries.metadata()?.len() as usize];
        entries.read_exact_at(&mut bytes, 0)?;
        let index = Index::read(&bytes, records);
        let keys = Keys::new(&folder.key, &hash);
        Ok(Self {
            blocks,
            entries,
            index,
            keys,
            block_bytes: identity.block_bytes,
            record_bytes,
            record: Vec::new(),
            broken: false,
        })
    }

    fn put_entry(&self, slot: usize) -> io::Result<()> {
        let bytes = self.index.entry(slot).copied().map_or([0; ENTRY_BYTES], Entry::to_bytes);
        self.entries.write_all_at(&bytes, (slot * ENTRY_BYTES) as u64)
    }

    /// An entry that cannot be written leaves an older one, which opens nothing or the same.
    fn write_entry(&mut self, slot: usize) {
        if let Err(error) = self.put_entry(slot)
            && !std::mem::replace(&mut self.broken, true)
        {
            tracing::warn!(%error, "the index of keys and values on disk cannot be written");
        }
    }
}

/// When entries were last used stands in memory until then; a crash makes them older than they are.
impl Drop for KvStore {
    fn drop(&mut self) {
        if let Err(error) = self.entries.write_all_at(&self.index.to_bytes(), 0) {
            tracing::warn!(%error, "the index of keys and values on disk cannot be written");
        }
    }
}

impl Keep for KvStore {
    fn begin(&mut self) {
        self.index.begin();
    }

    fn used(&mut self, scope: Scope, names: &[Name]) {
        for (depth, name) in names.iter().enumerate() {
            let Some(slot) = self.index.find(&self.keys.name(scope, name)) else { return };
            self.index.touch(slot, depth);
        }
    }

    fn knows(&mut self, scope: Scope, name: &Name) -> bool {
        self.index.find(&self.keys.name(scope, name)).is_some()
    }

    fn load(&mut self, scope: Scope, name: &Name, depth: usize) -> Option<&[u8]> {
        let hidden = self.keys.name(scope, name);
        let slot = self.index.find(&hidden)?;
        let entry = *self.index.entry(slot)?;
        self.record.resize(self.block_bytes, 0);
        let read = self.blocks.read_exact_at(&mut self.record, slot as u64 * self.record_bytes as u64);
        if read.is_err() || !self.keys.open(scope, &entry, &mut self.record) {
            tracing::warn!(slot, "a block of keys and values on disk is not what was written; it is computed again");
            self.index.forget(slot);
            self.write_entry(slot);
            return None;
        }
        self.index.touch(slot, depth);
        Some(&self.record)
    }

    /// In the place of the least recently used where there is no other.
    fn save(&mut self, scope: Scope, name: &Name, depth: usize, fill: &mut dyn FnMut(&mut [u8])) {
        let hidden = self.keys.name(scope, name);
        if self.broken || self.index.find(&hidden).is_some() {
            return;
        }
        let Some(slot) = self.index.place() else { return };
        self.record.resize(self.block_bytes, 0);
        fill(&mut self.record);
        let entry = self.keys.seal(scope, hidden, &mut self.record);
        // What lay there is gone first, and what is new is said last: between the two a crash leaves nothing that passes for a block.
        self.index.forget(slot);
        let written = self
            .put_entry(slot)
            .and_then(|()| self.blocks.write_all_at(&self.record, slot as u64 * self.record_bytes as u64));
        if let Err(error) = written {
            tracing::warn!(%error, "keys and values cannot be written to disk; no more are");
            self.broken = true;
            return;
        }
        self.index.put(slot, entry, depth);
        self.write_entry(slot);
    }
}

#[cfg(test)]
mod tests;
