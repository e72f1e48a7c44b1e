//! What lies in each record: an entry of 72 bytes, in the order of the records.
//!
//! ```text
//!  0  32  name    of the block, as its scope's key makes it; zeros: the record is free
//! 32   8  used    when it was last used (a count of beginnings), then how near its sequence's start it is; little-endian
//! 40  12  nonce
//! 52  16  tag
//! 68   4  zero
//! ```
//! **Invariant:** pure; every record is free or found by its name, and the least recently used is known.

use super::seal::{NONCE_BYTES, TAG_BYTES};
use std::collections::{BTreeSet, HashMap};

pub const ENTRY_BYTES: usize = 72;
/// Lower bits of `used`: a block deeper in its sequence than this counts as this deep.
const DEPTH_BITS: u32 = 24;

/// A name that its scope's key has made.
pub type Hidden = [u8; 32];

/// What lies in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: Hidden,
    pub used: u64,
    pub nonce: [u8; NONCE_BYTES],
    pub tag: [u8; TAG_BYTES],
}

impl Entry {
    pub fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..32].copy_from_slice(&self.name);
        bytes[32..40].copy_from_slice(&self.used.to_le_bytes());
        bytes[40..52].copy_from_slice(&self.nonce);
        bytes[52..68].copy_from_slice(&self.tag);
        bytes
    }

    fn of(bytes: &[u8; ENTRY_BYTES]) -> Option<Self> {
        let part = |from: usize| &bytes[from..];
        let name: Hidden = *part(0).first_chunk()?;
        let used = u64::from_le_bytes(*part(32).first_chunk()?);
        let entry = Self { name, used, nonce: *part(40).first_chunk()?, tag: *part(52).first_chunk()? };
        (name != [0; 32]).then_some(entry)
    }
}

/// All records.
#[derive(Debug)]
pub struct Index {
    entries: Vec<Option<Entry>>,
    by_name: HashMap<Hidden, usize>,
    /// `(used, record)` of those that are taken.
    by_use: BTreeSet<(u64, usize)>,
    free: Vec<usize>,
    /// Beginnings so far.
    count: u64,
}

impl Index {
    /// Of `records` records, of which the first have the entries in `bytes`. Of two of one name the later goes.
    pub fn read(bytes: &[u8], records: usize) -> Self {
        let mut index = Self {
            entries: vec![None; records],
            by_name: HashMap::new(),
            by_use: BTreeSet::new(),
            free: Vec::new(),
            count: 0,
        };
        for (slot, bytes) in bytes.as_chunks::<ENTRY_BYTES>().0.iter().take(records).enumerate() {
            let Some(entry) = Entry::of(bytes).filter(|entry| !index.by_name.contains_key(&entry.name)) else {
                continue;
            };
            index.by_name.insert(entry.name, slot);
            index.by_use.insert((entry.used, slot));
            index.entries[slot] = Some(entry);
            index.count = index.count.max(entry.used >> DEPTH_BITS);
        }
        index.free = (0..records).rev().filter(|&slot| index.entries[slot].is_none()).collect();
        index.begin();
        index
    }

    /// All entries up to the last that is taken.
    pub fn to_bytes(&self) -> Vec<u8> {
        let end = self.entries.iter().rposition(Option::is_some).map_or(0, |last| last + 1);
        self.entries[..end].iter().flat_map(|entry| entry.map_or([0; ENTRY_BYTES], Entry::to_bytes)).collect()
    }

    pub fn begin(&mut self) {
        self.count = (self.count + 1) & (u64::MAX >> DEPTH_BITS);
    }

    pub fn find(&self, name: &Hidden) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub fn entry(&self, slot: usize) -> Option<&Entry> {
        self.entries.get(slot)?.as_ref()
    }

    /// A record that may be written: a free one, or the least recently used. `None` where there is none at all.
    pub fn place(&self) -> Option<usize> {
        self.free.last().copied().or_else(|| self.by_use.first().map(|(_, slot)| *slot))
    }

    /// Makes a record free.
    pub fn forget(&mut self, slot: usize) {
        if let Some(entry) = self.entries[slot].take() {
            self.by_name.remove(&entry.name);
            self.by_use.remove(&(entry.used, slot));
            self.free.push(slot);
        }
    }

    /// Says what lies in a free record now, used just now.
    pub fn put(&mut self, slot: usize, entry: Entry, depth: usize) {
        debug_assert!(self.entries[slot].is_none() && !self.by_name.contains_key(&entry.name));
        self.free.retain(|free| *free != slot);
        let entry = Entry { used: self.now(depth), ..entry };
        self.by_name.insert(entry.name, slot);
        self.by_use.insert((entry.used, slot));
        self.entries[slot] = Some(entry);
    }

    /// It was used just now.
    pub fn touch(&mut self, slot: usize, depth: usize) {
        let now = self.now(depth);
        if let Some(entry) = &mut self.entries[slot] {
            self.by_use.remove(&(entry.used, slot));
            entry.used = now;
            self.by_use.insert((now, slot));
        }
    }

    /// Deeper is older: without its beginning a sequence is of no use.
    fn now(&self, depth: usize) -> u64 {
        const DEEPEST: u64 = (1 << DEPTH_BITS) - 1;
        self.count << DEPTH_BITS | (DEEPEST - (depth as u64).min(DEEPEST))
    }
}
