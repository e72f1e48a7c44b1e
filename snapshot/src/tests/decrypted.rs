//! An encrypted snapshot that is decrypted as it is read.
#![allow(unsafe_code)]

use super::*;
use crate::{DataKey, Header, OperatorKey, Verification};
use std::{thread, time::Duration};

/// The same in the clear, and encrypted.
struct Pair {
    plain: Sample,
    sealed: PathBuf,
    key: DataKey,
}

impl Pair {
    fn new() -> Self {
        let plain = Sample::new(&draft());
        let operator = OperatorKey::from_bytes(&[7; 32]).unwrap();
        let sealed = plain.folder.path().join("encrypted");
        write_draft(&sealed, &Draft { encrypt: Some(operator.clone()), ..draft() }, CHUNK).unwrap();
        let wrapped = crate::wrapped_key(&sealed).unwrap();
        let digest = Header::read(&File::open(&sealed).unwrap()).unwrap().digest;
        let key = operator.unwrap(wrapped.as_bytes(), &digest).unwrap();
        Self { plain, sealed, key }
    }

    fn open(&self) -> Result<Arc<Snapshot>, Error> {
        // SAFETY: these tests read of tensors in place what was looked at, and what is there.
        unsafe { Snapshot::decrypt_as_read(None, File::open(&self.sealed).unwrap(), &self.key) }
    }

    /// The encrypted file with other bytes, all else the same.
    fn bent(&self, change: impl FnOnce(&mut Vec<u8>)) -> File {
        let mut bytes = std::fs::read(&self.sealed).unwrap();
        change(&mut bytes);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&bytes).unwrap();
        file
    }

    fn open_bent(&self, change: impl FnOnce(&mut Vec<u8>)) -> Result<Arc<Snapshot>, Error> {
        // SAFETY: as above.
        unsafe { Snapshot::decrypt_as_read(None, self.bent(change), &self.key) }
    }
}

/// Eleven chunks of weights behind those of the sections.
fn draft() -> Draft {
    let tensors = (0..4).map(|i| tensor(&format!("layer.{i}"), 11_000)).collect();
    Draft { tensors, ..small_draft() }
}

/// Beside a computation that nobody gives up.
fn beside(snapshot: &Arc<Snapshot>, threads: usize) -> Verification {
    snapshot.verify_beside(threads, Duration::from_secs(600))
}

fn whole(snapshot: &Arc<Snapshot>) -> &[u8] {
    snapshot.mapping().slice(&(0..snapshot.header().file_bytes))
}

#[test]
fn what_was_looked_at_is_there_and_the_rest_follows() {
    let pair = Pair::new();
    let snapshot = pair.open().unwrap();
    let verification = beside(&snapshot, 2);
    let tensor = snapshot.tensors()[1].clone();
    let bytes = snapshot.tensor_in_place(&tensor);
    verification.look_at(bytes.as_ptr_range());
    assert!(*bytes == pattern(1, 11_000));
    let last = snapshot.chunks_of(&snapshot.tensors()[3].range()).end - 1;
    assert!(!snapshot.is_sound(last), "nobody has looked at it");
    assert!(*snapshot.tensor_bytes(&snapshot.tensors()[3].clone()) == pattern(3, 11_000), "it is brought");
    assert!(snapshot.is_sound(last));
    verification.go_on();
    verification.wait().unwrap();
    assert!(whole(&snapshot) == pair.plain.bytes, "the plain file, bit for bit");
}

#[test]
fn nobody_who_looks_at_it_meets_what_is_not_there_yet() {
    let pair = Pair::new();
    for round in 0..100 {
        let snapshot = pair.open().unwrap();
        // Whoever waits is told, whoever decrypts the last.
        let is_beside = round % 4 > 0;
        let threads = 1 + round % 3;
        let verification = if is_beside { beside(&snapshot, threads) } else { snapshot.verify_in_background(threads) };
        thread::scope(|scope| {
            for reader in 0..4 {
                let (snapshot, verification) = (&snapshot, &verification);
                scope.spawn(move || {
                    for i in (0..4).map(|i| (i + reader * (round % 2)) % 4) {
                        let bytes = snapshot.tensor_in_place(&snapshot.tensors()[i].clone());
                        // Parts that begin and end within pieces, as rows do.
                        for (at, part) in bytes.chunks(1500).enumerate() {
                            verification.look_at(part.as_ptr_range());
                            assert!(*part == pattern(i, 11_000)[at * 1500..][..part.len()], "{round}: {i} {at}");
                        }
                    }
                });
            }
            if is_beside {
                scope.spawn(|| verification.go_on());
            }
            verification.wait().unwrap();
        });
        assert!(whole(&snapshot) == pair.plain.bytes);
    }
}

#[test]
fn what_nobody_looks_at_is_decrypted_in_time() {
    let pair = Pair::new();
    let ways: [fn(&Arc<Snapshot>) -> Verification; 3] = [
        |snapshot| snapshot.verify_beside(2, Duration::from_millis(20)),
        |snapshot| snapshot.verify_in_background(2),
        |snapshot| snapshot.verify_again_in_background(2),
    ];
    for start in ways {
        let snapshot = pair.open().unwrap();
        start(&snapshot).wait().unwrap();
        assert!(whole(&snapshot) == pair.plain.bytes);
    }
}

#[test]
fn once_all_is_there_nobody_can_change_it() {
    let pair = Pair::new();
    let snapshot = pair.open().unwrap();
    let at = whole(&snapshot).as_ptr() as usize;
    let rights = || {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let holds = |line: &&str| {
            let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
            let [start, end] = [start, end].map(|text| usize::from_str_radix(text, 16).unwrap());
            (start..end).contains(&at)
        };
        maps.lines().find(holds).unwrap().split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!(rights(), "rw-p");
    let source = Arc::downgrade(&snapshot.decryption().unwrap().source().unwrap());
    snapshot.verify_in_background(2).wait().unwrap();
    // Who brings the last piece seals it all just behind.
    while rights() != "r--p" {
        thread::yield_now();
    }
    assert!(snapshot.decryption().unwrap().source().is_none());
    // Who reads in may be at it for a moment.
    while source.upgrade().is_some() {
        thread::yield_now();
    }
}

#[test]
fn every_piece_that_is_not_what_was_sealed_is_named_and_the_others_are_there() {
    let pair = Pair::new();
    let snapshot = pair.open().unwrap();
    let pieces: Vec<_> = (0..snapshot.chunks() as u64).map(|chunk| snapshot.header().chunk_range(chunk)).collect();
    // The first is the header's, and empty.
    for (number, piece) in pieces.iter().enumerate().skip(1) {
        let bent = pair.open_bent(|bytes| bytes[piece.end as usize - 1] ^= 16);
        let expected = format!("bytes {:#x}..{:#x} cannot be decrypted", piece.start, piece.end);
        // The table's piece is wanted at once.
        let Ok(bent) = bent else {
            assert!(bent.unwrap_err().to_string().starts_with(&expected) && number == 1, "{number}");
            continue;
        };
        let verification = beside(&bent, 2);
        for tensor in bent.tensors().to_vec() {
            let bytes = bent.tensor_in_place(&tensor);
            verification.look_at(bytes.as_ptr_range());
            let is_bent = bent.chunks_of(&tensor.range()).contains(&number);
            assert!(is_bent || *bytes == *snapshot.tensor_bytes(&tensor), "{number}: {}", tensor.name);
        }
        verification.go_on();
        let error = verification.wait().unwrap_err().to_string();
        assert!(error.starts_with(&expected), "{number}: {error}");
        let sections = [SectionKind::Config, SectionKind::Tokenizer].map(|kind| bent.section(kind).map(drop));
        let unverified = bent.section_bytes_unverified(SectionKind::Tokenizer).map(drop);
        for refused in sections.into_iter().chain([unverified]).filter_map(Result::err) {
            assert!(refused.to_string().starts_with(&expected), "{number}: {refused}");
        }
    }
}

#[test]
fn a_header_or_checksums_that_were_not_sealed_are_refused_before_anything_is_read() {
    let pair = Pair::new();
    let at = pair.open().unwrap().header().checksums.offset as usize;
    let forged = |bytes: &mut Vec<u8>| {
        let name = bytes.windows(4).position(|word| word == b"tiny").unwrap();
        bytes[name] ^= 1;
        resum(bytes);
    };
    let errors =
        [pair.open_bent(|bytes| bytes[at] ^= 1), pair.open_bent(forged)].map(|opened| opened.unwrap_err().to_string());
    for error in errors {
        assert!(error.contains("cannot be decrypted"), "{error}");
    }
}

#[test]
fn a_file_cut_after_opening_is_an_error_for_each_who_wants_what_is_gone() {
    let pair = Pair::new();
    let file = pair.bent(|_| {});
    let cut = file.try_clone().unwrap();
    // SAFETY: as above.
    let snapshot = unsafe { Snapshot::decrypt_as_read(None, file, &pair.key) }.unwrap();
    let last = snapshot.tensors()[3].clone();
    cut.set_len(last.offset).unwrap();
    let verification = beside(&snapshot, 1);
    verification.look_at(snapshot.tensor_in_place(&last).as_ptr_range());
    for _ in 0..2 {
        let error = verification.wait().unwrap_err();
        assert!(matches!(&*error, Error::Io { action, .. } if action.starts_with("reading bytes")), "{error}");
        assert_eq!(error.exit_code(), 74);
    }
    assert_eq!(snapshot.verify_in_background(2).wait().unwrap_err().exit_code(), 74);
}
