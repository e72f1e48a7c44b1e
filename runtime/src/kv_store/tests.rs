#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;
use std::{collections::HashMap, fs};
use tempfile::TempDir;

const BLOCK_BYTES: usize = 5000;
const RECORD_BYTES: usize = 8192;

fn folder(at: &TempDir, records: usize) -> Arc<Folder> {
    let bytes = records * (RECORD_BYTES + ENTRY_BYTES);
    Arc::new(Folder::open(at.path(), None, bytes as u64).unwrap())
}

fn open(folder: &Arc<Folder>) -> io::Result<KvStore> {
    identified(folder, &[1; 32])
}

fn identified(folder: &Arc<Folder>, digest: &[u8; 32]) -> io::Result<KvStore> {
    let identity = Identity { digest, instruction_set: "portable", kv_format: "f16", block_bytes: BLOCK_BYTES };
    KvStore::open(folder, &identity)
}

fn name(number: u32) -> Name {
    let mut name = [7; 32];
    name[..4].copy_from_slice(&number.to_le_bytes());
    name
}

fn content(number: u32) -> Vec<u8> {
    (0..BLOCK_BYTES as u32).map(|i| (i.wrapping_mul(number + 3) >> 2) as u8).collect()
}

fn save(store: &mut KvStore, scope: u128, number: u32, depth: usize) {
    store.save(Scope(scope), &name(number), depth, &mut |out| out.copy_from_slice(&content(number)));
}

fn load(store: &mut KvStore, scope: u128, number: u32) -> Option<Vec<u8>> {
    store.load(Scope(scope), &name(number), 0).map(<[u8]>::to_vec)
}

fn file(at: &TempDir, suffix: &str) -> std::path::PathBuf {
    let mut found = fs::read_dir(at.path()).unwrap().map(|entry| entry.unwrap().path());
    found.find(|path| path.extension().is_some_and(|extension| extension == suffix)).unwrap()
}

#[test]
fn blocks_outlive_the_process_and_no_other_scope_identity_or_key_finds_them() {
    let at = TempDir::new().unwrap();
    let folder = folder(&at, 4);
    let mut store = open(&folder).unwrap();
    save(&mut store, 1, 10, 0);
    save(&mut store, 1, 11, 1);
    assert!(open(&folder).is_err(), "another process has the files");
    drop(store);
    let mut store = open(&folder).unwrap();
    assert_eq!((load(&mut store, 1, 10), load(&mut store, 1, 11)), (Some(content(10)), Some(content(11))));
    assert!(!store.knows(Scope(2), &name(10)) && load(&mut store, 2, 10).is_none());
    assert!(load(&mut identified(&folder, &[2; 32]).unwrap(), 1, 10).is_none());
    drop(store);
    let bytes = fs::read(file(&at, "blocks")).unwrap();
    assert!(!bytes.windows(64).any(|window| window == &content(10)[..64]), "nothing lies there in the clear");
    fs::remove_file(at.path().join("key")).unwrap();
    let other = self::folder(&at, 4);
    assert!(load(&mut open(&other).unwrap(), 1, 10).is_none(), "without its key all is lost");
}

#[test]
fn a_bent_or_short_file_is_a_block_that_is_not_there() {
    for damage in ["blocks", "index", "short", "gone", "garbage"] {
        let at = TempDir::new().unwrap();
        let folder = folder(&at, 4);
        let mut store = open(&folder).unwrap();
        (0..3).for_each(|number| save(&mut store, 1, number, number as usize));
        drop(store);
        let bend = |path: &Path, at: usize| {
            let mut bytes = fs::read(path).unwrap();
            bytes[at] ^= 1;
            fs::write(path, bytes).unwrap();
        };
        match damage {
            "blocks" => bend(&file(&at, "blocks"), RECORD_BYTES + 1234),
            // A nonce.
            "index" => bend(&file(&at, "index"), ENTRY_BYTES + 41),
            "short" => fs::File::options().write(true).open(file(&at, "blocks")).unwrap().set_len(9000).unwrap(),
            "gone" => fs::remove_file(file(&at, "blocks")).unwrap(),
            _ => fs::write(file(&at, "index"), [0xA5; 1000]).unwrap(),
        }
        let mut store = open(&folder).unwrap();
        for number in 0..3 {
            let found = load(&mut store, 1, number);
            assert!(found.is_none() || found == Some(content(number)), "{damage}");
        }
        assert!(load(&mut store, 1, 1).is_none(), "{damage}");
        // And its place is of use again.
        save(&mut store, 1, 1, 1);
        assert_eq!(load(&mut store, 1, 1), Some(content(1)), "{damage}");
    }
}

#[test]
fn a_smaller_budget_keeps_what_fits() {
    let at = TempDir::new().unwrap();
    let mut store = open(&folder(&at, 8)).unwrap();
    (0..8).for_each(|number| save(&mut store, 1, number, 0));
    drop(store);
    let mut store = open(&folder(&at, 3)).unwrap();
    assert_eq!((0..8).filter(|&number| load(&mut store, 1, number).is_some()).count(), 3);
    save(&mut store, 1, 100, 0);
    assert!(fs::metadata(file(&at, "blocks")).unwrap().len() <= 3 * RECORD_BYTES as u64);
    drop(store);
    let mut none = open(&folder(&at, 0)).unwrap();
    save(&mut none, 1, 1, 0);
    assert!(load(&mut none, 1, 1).is_none());
}

#[test]
fn the_longest_unused_goes_first_and_of_one_sequence_its_end() {
    let at = TempDir::new().unwrap();
    let folder = folder(&at, 6);
    let mut store = open(&folder).unwrap();
    for (sequence, first) in [(0, 0), (1, 3)] {
        store.begin();
        (0..3).for_each(|depth| save(&mut store, sequence, first + depth, depth as usize));
    }
    store.begin();
    store.used(Scope(0), &[name(0), name(1), name(2)]);
    drop(store);
    let mut store = open(&folder).unwrap();
    let left = |store: &mut KvStore| -> Vec<u32> {
        (0..6).filter(|&number| store.knows(Scope(u128::from(number / 3)), &name(number))).collect()
    };
    for expected in [&[0, 1, 2, 3, 4][..], &[0, 1, 2, 3], &[0, 1, 2], &[0, 1]] {
        save(&mut store, 9, 100 + expected.len() as u32, 0);
        assert_eq!(left(&mut store), expected);
    }
}

#[test]
fn a_key_of_another_length_is_refused_and_named() {
    let at = TempDir::new().unwrap();
    let key = at.path().join("mine");
    for (bytes, taken) in [(32, true), (31, false), (33, false), (0, false)] {
        fs::write(&key, vec![5; bytes]).unwrap();
        let opened = Folder::open(at.path(), Some(&key), 1 << 20);
        assert_eq!(opened.is_ok(), taken, "{bytes}");
        assert!(opened.map_or_else(|error| error.to_string().contains("mine"), |_| true));
    }
}

proptest! {
    /// Whatever is saved, loaded and reopened: what comes back is what was saved, and never more than there is room for.
    #[test]
    fn what_comes_back_is_what_was_saved(steps in prop::collection::vec((0u32..9, 0u8..4), 1..60)) {
        let at = TempDir::new().unwrap();
        let folder = folder(&at, 5);
        let mut store = open(&folder).unwrap();
        let mut saved = HashMap::new();
        for (number, step) in steps {
            match step {
                0 | 1 => {
                    save(&mut store, 1, number, number as usize);
                    saved.insert(number, content(number));
                    prop_assert_eq!(load(&mut store, 1, number), Some(content(number)));
                }
                2 => {
                    let found = load(&mut store, 1, number);
                    prop_assert!(found.is_none() || found.as_ref() == saved.get(&number));
                }
                _ => {
                    drop(store);
                    store = open(&folder).unwrap();
                }
            }
            prop_assert!((0..9).filter(|&n| store.knows(Scope(1), &name(n))).count() <= 5);
        }
    }
}
