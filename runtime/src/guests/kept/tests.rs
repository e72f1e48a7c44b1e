#![allow(clippy::unwrap_used)]
use super::*;
use guests::Scope;
use std::path::{Path, PathBuf};

fn kept(key: &str, bytes: &[u8]) -> Kept {
    let (plugin, key) = ("quota".to_owned(), key.to_owned());
    Kept { plugin, scope: Scope(7), key, bytes: bytes.to_vec(), at_ms: 5, until_ms: None }
}

fn open(path: &Path) -> StateFile {
    StateFile::open(&Folder::open(path, None, 0).unwrap(), "m").unwrap()
}

fn keys(path: &Path) -> Vec<String> {
    let mut keys: Vec<String> = open(path).begin().unwrap().unwrap().into_iter().map(|kept| kept.key).collect();
    keys.sort();
    keys
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
    let long = Kept { until_ms: Some(u64::MAX - 1), ..kept("k", b"top secret") };
    first.put(&kept("k", b"before"));
    first.put(&long);
    first.put(&kept("over", b"before"));
    first.put(&Kept { until_ms: Some(9), ..kept("over", b"") });
    assert!(open(folder.path()).begin().unwrap().is_none(), "one process at a time");
    drop(first);
    let bytes = std::fs::read(file(folder.path())).unwrap();
    assert!(!bytes.windows(6).any(|window| window == b"secret"));
    assert_eq!(open(folder.path()).begin().unwrap(), Some(vec![long]), "the last of each key, unless its time is over");
    let other = StateFile::open(&Folder::open(folder.path(), None, 0).unwrap(), "another").unwrap().begin();
    assert_eq!(other.unwrap(), Some(Vec::new()));
}

#[test]
fn it_is_written_anew_when_much_of_it_counts_no_more_and_goes_on_from_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = open(folder.path());
    state.begin().unwrap();
    let big = kept("big", &vec![1; 1 << 20]);
    let grew = (0..10).position(|_| {
        state.put(&big);
        state.is_stale(false)
    });
    assert!((3..6).contains(&grew.unwrap()), "{grew:?}");
    state.rewrite(vec![big.clone()]);
    state.put(&kept("meanwhile", b"1"));
    state.close();
    state.put(&kept("after", b"1"));
    assert!(!state.is_stale(false) && state.current.end < 2 << 20);
    drop(state);
    assert_eq!(keys(folder.path()), ["after", "big", "meanwhile"]);
    // Lives that each write little.
    for _ in 0..12 {
        let mut state = open(folder.path());
        state.begin().unwrap().unwrap();
        state.put(&big);
        if state.is_stale(false) {
            state.rewrite(vec![big.clone()]);
            state.close();
        }
    }
    assert!(std::fs::metadata(file(folder.path())).unwrap().len() < 8 << 20);
}

#[test]
fn a_process_that_ends_while_it_writes_anew_leaves_what_was_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut state = open(folder.path());
    state.begin().unwrap();
    state.put(&kept("a", b"1"));
    // All but the header, which is last.
    let sealing = Sealing::fresh(&state.root, 2);
    write_beside(&state.files, 1, sealing, &[kept("b", b"2")]).unwrap();
    drop(state);
    assert_eq!(keys(folder.path()), ["a"]);
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
    let third = whole.len() - (whole.len() - HEADER_BYTES) / 3;
    for cut in third + 1..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        assert_eq!(keys(folder.path()), ["a", "b"], "{cut}");
    }
    // As after a loss of power: a length on disk and its content not, also of what came behind it.
    std::fs::write(&path, [&whole[..third - 10], &[0; 300]].concat()).unwrap();
    assert_eq!(keys(folder.path()), ["a"]);
    std::fs::write(&path, [&whole[..third + 4], &vec![0; whole.len() - third - 4]].concat()).unwrap();
    assert_eq!(keys(folder.path()), ["a", "b"]);
    for at in 0..third {
        let mut wrong = whole.clone();
        wrong[at] ^= 1;
        std::fs::write(&path, &wrong).unwrap();
        match open(folder.path()).begin() {
            Err(_) => assert_eq!(std::fs::read(&path).unwrap(), wrong, "it is left as it is"),
            // A length that points behind the end passes for a torn one.
            Ok(kept) => assert!(at >= HEADER_BYTES && kept.unwrap().len() < 3, "{at}"),
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
