//! What durable guests keep, on disk: encrypted, in the operator's folder beside keys and values.
//!
//! Two files for each model, `NAME.state-0` and `NAME.state-1`, of which the one with the higher generation counts:
//!
//! ```text
//! 8 bytes   "PLSTATE1"
//! u64 LE    generation; 0: not whole
//! records   u32 LE length of what is sealed | 12 bytes nonce | sealed: scope, times, plug-in, key, value | 16 bytes tag
//! ```
//!
//! A value is added behind the others when it is set, so that the end of its process loses nothing; a machine that loses power may lose the last
//! seconds. When the file has grown, the other is written anew and then counts.
//!
//! **Invariants:** one process has a model's files at a time (a lock on the first). A record opens only in its file's generation and at its place; what
//! does not open is an error and is left as it is, but for what ends with the file, which passes for torn and is cut off. A disk that is full ends the keeping, with a warning.

use crate::kv_store::Folder;
use guests::{Keeper, Kept, Scope};
use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey},
    rand::{SecureRandom, SystemRandom},
};
use rustix::fs::FlockOperation;
use sha2::{Digest, Sha256};
use std::{fs::File, io, os::unix::fs::FileExt};

const MAGIC: &[u8; 8] = b"PLSTATE1";
const HEADER_BYTES: u64 = 16;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// Of a record, before plug-in, key and value: scope, times, lengths.
const FIXED_BYTES: usize = 16 + 8 + 8 + 2 + 2;
/// A record at most, sealed: a value, its key and its plug-in's name.
const RECORD_BYTES_MAX: usize = (1 << 20) + (64 << 10);
/// A file at most: what guests keep is bounded, and so is what is behind it.
const FILE_BYTES_MAX: u64 = 512 << 20;
/// So much may be added before it is written anew, and twice what was there.
const GROWTH_BYTES: u64 = 4 << 20;

/// See the module.
pub struct StateFile {
    files: [File; 2],
    /// The one that counts.
    at: usize,
    generation: u64,
    end: u64,
    /// Where its end was when it was written anew.
    compact: u64,
    key: LessSafeKey,
    random: SystemRandom,
    broken: bool,
}

impl StateFile {
    /// A model's. Nothing is read yet.
    ///
    /// # Errors
    /// What cannot be opened or made.
    pub fn open(folder: &Folder, model: &str) -> io::Result<Self> {
        let salt: [u8; 32] =
            Sha256::new().chain_update(b"pilotlight guest state\0").chain_update(model).finalize().into();
        let name: String = salt[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        let open = |n: usize| folder.file(&format!("{name}.state-{n}"));
        let key = UnboundKey::new(&AES_256_GCM, &folder.derived(&salt)).expect("the key has the cipher's length");
        let (files, key) = ([open(0)?, open(1)?], LessSafeKey::new(key));
        let (at, generation, end, compact) = (0, 0, HEADER_BYTES, HEADER_BYTES);
        Ok(Self { files, at, generation, end, compact, key, random: SystemRandom::new(), broken: false })
    }

    /// What a record is bound to.
    fn place(generation: u64, offset: u64) -> Aad<[u8; 16]> {
        let mut place = [0; 16];
        place[..8].copy_from_slice(&generation.to_le_bytes());
        place[8..].copy_from_slice(&offset.to_le_bytes());
        Aad::from(place)
    }

    fn read(&mut self) -> Result<Vec<Kept>, String> {
        let generations = [generation(&self.files[0]), generation(&self.files[1])];
        self.at = usize::from(generations[1] > generations[0]);
        self.generation = generations[self.at];
        if self.generation == 0 {
            return self.begin_anew().map(|()| Vec::new()).map_err(|error| error.to_string());
        }
        let file = &self.files[self.at];
        let length = file.metadata().map_err(|error| error.to_string())?.len();
        if length > FILE_BYTES_MAX {
            return Err(format!("the file of what guests keep has {length} bytes; the limit is {FILE_BYTES_MAX}"));
        }
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, 0).map_err(|error| error.to_string())?;
        let (mut kept, mut offset) = (Vec::new(), HEADER_BYTES as usize);
        while offset < bytes.len() {
            match self.unseal(&mut bytes, offset) {
                Ok((record, next)) => {
                    kept.push(record);
                    offset = next;
                }
                Err(Bad::Torn) => {
                    tracing::warn!(offset, "the last of what guests kept was not written whole, and is left out");
                    break;
                }
                Err(Bad::Sealed) => {
                    return Err(format!(
                        "what guests have kept does not open at byte {offset}: it was written with another key, or changed. Give that key, or remove the model's *.state-* files to begin with nothing"
                    ));
                }
            }
        }
        self.end = offset as u64;
        self.compact = self.end;
        self.files[self.at].set_len(self.end).map_err(|error| error.to_string())?;
        Ok(kept)
    }

    fn begin_anew(&mut self) -> io::Result<()> {
        self.generation = 1;
        self.end = HEADER_BYTES;
        self.compact = self.end;
        self.files[self.at].set_len(0)?;
        self.files[self.at].write_all_at(&header(1), 0)
    }

    /// The record at an offset, and where the next is.
    fn unseal(&self, bytes: &mut [u8], offset: usize) -> Result<(Kept, usize), Bad> {
        let (_, rest) = bytes.split_at_mut(offset);
        let (length, rest) = rest.split_at_mut_checked(4).ok_or(Bad::Torn)?;
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        if !(FIXED_BYTES + TAG_BYTES..=RECORD_BYTES_MAX).contains(&length) {
            // Where a file's end was not written, there are zeros.
            return Err(if rest.iter().all(|byte| *byte == 0) { Bad::Torn } else { Bad::Sealed });
        }
        let is_last = rest.len() <= NONCE_BYTES + length;
        let (nonce, rest) = rest.split_at_mut_checked(NONCE_BYTES).ok_or(Bad::Torn)?;
        let (sealed, _) = rest.split_at_mut_checked(length).ok_or(Bad::Torn)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).expect("it has a nonce's length");
        let opened = self.key.open_in_place(nonce, Self::place(self.generation, offset as u64), sealed);
        // A first record that does not open is of another key.
        let torn = is_last && offset as u64 > HEADER_BYTES;
        let record = opened.map_err(|_| if torn { Bad::Torn } else { Bad::Sealed })?;
        Ok((parse(record).ok_or(Bad::Sealed)?, offset + 4 + NONCE_BYTES + length))
    }

    fn seal(&self, kept: &Kept, generation: u64, offset: u64) -> Vec<u8> {
        let mut nonce = [0; NONCE_BYTES];
        self.random.fill(&mut nonce).expect("the system has random numbers");
        let mut sealed = plain(kept);
        let place = Self::place(generation, offset);
        let done = self.key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), place, &mut sealed);
        done.expect("a value is far below the cipher's limit");
        [&(sealed.len() as u32).to_le_bytes()[..], &nonce, &sealed].concat()
    }

    fn write_anew(&mut self, all: &mut dyn Iterator<Item = Kept>) -> io::Result<()> {
        let (other, generation) = (1 - self.at, self.generation + 1);
        let file = &self.files[other];
        file.set_len(0)?;
        let mut end = HEADER_BYTES;
        for kept in all {
            let record = self.seal(&kept, generation, end);
            file.write_all_at(&record, end)?;
            end += record.len() as u64;
        }
        // Whole before it counts.
        file.sync_data()?;
        file.write_all_at(&header(generation), 0)?;
        file.sync_data()?;
        (self.at, self.generation, self.end, self.compact) = (other, generation, end, end);
        self.files[1 - other].set_len(0)
    }

    fn give_up(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.broken, true) {
            tracing::error!(%error, "what guests keep cannot be written any more: what they change from now on is lost with this runtime");
        }
    }
}

/// Why a record does not open.
enum Bad {
    /// The file ends in it.
    Torn,
    /// It is not what was written here.
    Sealed,
}

impl Keeper for StateFile {
    fn begin(&mut self) -> Result<Option<Vec<Kept>>, String> {
        match rustix::fs::flock(&self.files[0], FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => self.read().map(Some),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(format!("what guests keep cannot be locked: {error}")),
        }
    }

    fn put(&mut self, kept: &Kept) -> bool {
        if self.broken {
            return false;
        }
        let record = self.seal(kept, self.generation, self.end);
        match self.files[self.at].write_all_at(&record, self.end) {
            Ok(()) => self.end += record.len() as u64,
            Err(error) => self.give_up(&error),
        }
        self.end > self.compact.saturating_mul(2).saturating_add(GROWTH_BYTES)
    }

    fn rewrite(&mut self, all: &mut dyn Iterator<Item = Kept>) {
        if !self.broken
            && let Err(error) = self.write_anew(all)
        {
            self.give_up(&error);
        }
    }
}

fn header(generation: u64) -> [u8; HEADER_BYTES as usize] {
    let mut header = [0; HEADER_BYTES as usize];
    header[..8].copy_from_slice(MAGIC);
    header[8..].copy_from_slice(&generation.to_le_bytes());
    header
}

/// 0 where there is none, or it is not whole.
fn generation(file: &File) -> u64 {
    let mut header = [0; HEADER_BYTES as usize];
    match file.read_exact_at(&mut header, 0) {
        Ok(()) if header.starts_with(MAGIC) => u64::from_le_bytes(header[8..].try_into().expect("eight bytes")),
        _ => 0,
    }
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
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};

    fn kept(key: &str, bytes: &[u8]) -> Kept {
        let (plugin, key) = ("quota".to_owned(), key.to_owned());
        Kept { plugin, scope: Scope(7), key, bytes: bytes.to_vec(), at_ms: 5, until_ms: None }
    }

    fn open(path: &Path) -> StateFile {
        StateFile::open(&Folder::open(path, None, 0).unwrap(), "m").unwrap()
    }

    fn keys(path: &Path) -> Vec<String> {
        open(path).begin().unwrap().unwrap().into_iter().map(|kept| kept.key).collect()
    }

    /// The file that has something in it.
    fn file(path: &Path) -> PathBuf {
        let files = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<PathBuf> = files.filter(|file| file.to_string_lossy().contains("state-")).collect();
        files.sort_by_key(|file| std::fs::metadata(file).unwrap().len());
        files.pop().unwrap()
    }

    #[test]
    fn what_was_put_is_there_in_the_next_process_and_is_nobody_elses_to_read() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = open(folder.path());
        assert_eq!(first.begin().unwrap(), Some(Vec::new()));
        let long = Kept { until_ms: Some(9), ..kept("k", b"top secret") };
        assert!(!first.put(&long));
        assert!(!first.put(&kept("other", &vec![1; 1 << 20])));
        assert!(open(folder.path()).begin().unwrap().is_none(), "one process at a time");
        drop(first);
        let bytes = std::fs::read(file(folder.path())).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"secret"));
        let all = open(folder.path()).begin().unwrap().unwrap();
        assert_eq!((&all[0], all[1].bytes.len()), (&long, 1 << 20));
        let other = StateFile::open(&Folder::open(folder.path(), None, 0).unwrap(), "another").unwrap().begin();
        assert_eq!(other.unwrap(), Some(Vec::new()));
    }

    #[test]
    fn it_is_written_anew_when_it_has_grown_and_goes_on_from_there() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = open(folder.path());
        state.begin().unwrap();
        let big = kept("big", &vec![1; 1 << 20]);
        let grew = (0..10).position(|_| state.put(&big)).unwrap();
        assert!((3..5).contains(&grew), "{grew}");
        state.rewrite(&mut [big].into_iter());
        state.put(&kept("after", b"1"));
        drop(state);
        assert_eq!(keys(folder.path()), ["big", "after"]);
        assert!(std::fs::metadata(file(folder.path())).unwrap().len() < 2 << 20);
        let mut state = open(folder.path());
        state.begin().unwrap();
        state.rewrite(&mut std::iter::empty());
        drop(state);
        assert!(keys(folder.path()).is_empty(), "and back in the first file");
    }

    #[test]
    fn a_torn_end_is_cut_off_and_anything_else_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut state = open(folder.path());
        state.begin().unwrap();
        for key in ["a", "b", "c"] {
            state.put(&kept(key, b"value"));
        }
        drop(state);
        let (path, whole) = (file(folder.path()), std::fs::read(file(folder.path())).unwrap());
        let third = whole.len() - (whole.len() - 16) / 3;
        for cut in third + 1..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(keys(folder.path()), ["a", "b"], "{cut}");
        }
        // As after a loss of power: a length on disk and its content not.
        std::fs::write(&path, [&whole[..third + 4], &vec![0; whole.len() - third - 4]].concat()).unwrap();
        assert_eq!(keys(folder.path()), ["a", "b"]);
        for at in 16..third {
            let mut wrong = whole.clone();
            wrong[at] ^= 1;
            std::fs::write(&path, &wrong).unwrap();
            match open(folder.path()).begin() {
                Err(_) => assert_eq!(std::fs::read(&path).unwrap(), wrong, "it is left as it is"),
                // A length that points behind the end passes for a torn one.
                Ok(kept) => assert!(kept.unwrap().len() < 3, "{at}"),
            }
        }
    }

    #[test]
    fn another_key_opens_nothing_and_loses_nothing() {
        let (folder, keys_folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut state = open(folder.path());
        state.begin().unwrap();
        state.put(&kept("a", b"value"));
        drop(state);
        let other = keys_folder.path().join("key");
        std::fs::write(&other, [9; 32]).unwrap();
        let mut wrong = StateFile::open(&Folder::open(folder.path(), Some(&other), 0).unwrap(), "m").unwrap();
        assert!(wrong.begin().unwrap_err().contains("another key"));
        drop(wrong);
        assert_eq!(keys(folder.path()), ["a"]);
    }

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
