//! Bits that flip, files that end early.

use super::*;
use crate::verify::Verification;
use std::{os::unix::fs::FileExt, path::Path, time::Duration};

#[test]
fn a_bit_flipped_at_any_byte_is_found() {
    let sample = Sample::new(&small_draft());
    open_and_verify(&sample.path).unwrap();
    for at in 0..sample.bytes.len() {
        sample.put(at, &[sample.bytes[at] ^ (1 << (at % 8))]);
        let error = open_and_verify(&sample.path).expect_err("verify_all missed a flipped bit");
        assert!(error.is_bad_data(), "byte {at:#x}: {error}");
        let error = open_and_wait(&sample.path, 1 + at % 2).expect_err("the background missed a flipped bit");
        assert!(error.is_bad_data(), "byte {at:#x}: {error}");
        sample.put(at, &[sample.bytes[at]]);
    }
    open_and_verify(&sample.path).unwrap();
}

#[test]
fn a_file_cut_at_any_length_is_refused() {
    let sample = Sample::new(&small_draft());
    for length in (0..sample.bytes.len()).rev() {
        sample.file.set_len(length as u64).unwrap();
        let error = Snapshot::open(&sample.path).expect_err("a cut file was opened");
        let expected = if length == 0 { "not a snapshot" } else { "truncated" };
        assert!(error.to_string().starts_with(expected), "{length} bytes: {error}");
        assert_eq!(error.exit_code(), 65);
    }
}

#[test]
fn bytes_behind_the_end_are_refused() {
    let sample = Sample::new(&small_draft());
    sample.put(sample.bytes.len(), &[0]);
    let error = Snapshot::open(&sample.path).unwrap_err().to_string();
    assert!(error.contains("end of file") && error.contains("1 bytes follow"), "{error}");
}

#[test]
fn a_file_cut_after_opening_is_an_error_not_a_signal() {
    let sample = Sample::new(&small_draft());
    let snapshot = Snapshot::open(&sample.path).unwrap();
    sample.file.set_len(8192).unwrap();
    let error = snapshot.verify_in_background(1).wait().unwrap_err();
    assert!(matches!(&*error, Error::Io { action, .. } if action.starts_with("reading bytes 0x2000")), "{error}");
    assert!(error.to_string().contains("cut short since it was opened"), "{error}");
    assert_eq!(error.exit_code(), 74);
}

/// Flips a bit in a tensor and says what every way of looking at the file reports.
fn flip_in_tensor(sample: &Sample, name: &str) -> Vec<String> {
    let snapshot = Snapshot::open(&sample.path).unwrap();
    let at = snapshot.tensors().iter().find(|tensor| tensor.name == name).unwrap().offset as usize;
    sample.put(at, &[sample.bytes[at] ^ 4]);
    let verification = snapshot.verify_in_background(2);
    let everything = 0..sample.bytes.len() as u64;
    vec![
        verification.wait().unwrap_err().to_string(),
        verification.wait_range(everything).unwrap_err().to_string(),
        open_and_verify(&sample.path).unwrap_err().to_string(),
    ]
}

#[test]
fn a_corrupt_chunk_is_named_with_its_section_and_offsets() {
    let sample = Sample::new(&small_draft());
    let expected = "chunk 5 (section weights, bytes 0x5000..0x6000): checksum mismatch";
    assert_eq!(flip_in_tensor(&sample, "embed"), [expected; 3]);
}

#[test]
fn a_section_is_verified_before_it_is_returned() {
    let sample = Sample::new(&small_draft());
    let snapshot = Snapshot::open(&sample.path).unwrap();
    let section = snapshot.sections().iter().find(|section| section.name == "tokenizer").unwrap().clone();
    let last = section.range().end as usize - 1;
    sample.put(last, &[sample.bytes[last] ^ 128]);
    let error = snapshot.section(SectionKind::Tokenizer).unwrap_err().to_string();
    assert_eq!(error, "chunk 4 (section tokenizer, bytes 0x4000..0x5000): checksum mismatch");
    assert_eq!(snapshot.section(SectionKind::Config).unwrap(), Some(&b"{}"[..]));
    assert_eq!(snapshot.section(SectionKind::Template).unwrap(), Some(&b""[..]));
    assert_eq!(snapshot.section(SectionKind::Guests).unwrap(), None);
}

#[test]
fn a_range_is_waited_for_alone() {
    let sample = Sample::new(&small_draft());
    let snapshot = Snapshot::open(&sample.path).unwrap();
    let verification = snapshot.verify_in_background(2);
    for tensor in snapshot.tensors() {
        verification.wait_range(tensor.range()).unwrap();
    }
    verification.wait_range(0..u64::MAX).unwrap();
    verification.clone().wait().unwrap();
}

/// Beside a computation that nobody gives up.
fn beside(snapshot: &std::sync::Arc<Snapshot>, threads: usize) -> Verification {
    snapshot.verify_beside(threads, Duration::from_secs(600))
}

/// What a computation is about to read: a tensor's bytes.
fn bytes_of<'a>(snapshot: &'a std::sync::Arc<Snapshot>, name: &str) -> &'a [u8] {
    let tensor = snapshot.tensors().iter().find(|tensor| tensor.name == name).unwrap();
    snapshot.mapping().slice(&tensor.range())
}

#[test]
fn who_is_about_to_read_verifies_and_the_rest_follows() {
    let sample = Sample::new(&small_draft());
    let snapshot = Snapshot::open(&sample.path).unwrap();
    let verification = beside(&snapshot, 2);
    let tensor = snapshot.tensors()[1].clone();
    verification.look_at(bytes_of(&snapshot, "layer.0").as_ptr_range());
    let chunks = snapshot.chunks_of(&tensor.range());
    assert!(chunks.clone().all(|chunk| snapshot.is_sound(chunk)) && !snapshot.are_sound());
    // Another's memory, an end of it behind the mapping, and what was looked at before.
    verification.look_at(sample.bytes.as_ptr_range());
    verification.look_at(bytes_of(&snapshot, "layer.0").as_ptr_range());
    assert!(!snapshot.are_sound());
    verification.go_on();
    verification.wait().unwrap();
    assert!(snapshot.are_sound());
}

#[test]
fn who_does_not_read_is_not_waited_for() {
    let sample = Sample::new(&small_draft());
    for looks in [false, true] {
        let snapshot = Snapshot::open(&sample.path).unwrap();
        let verification = snapshot.verify_beside(2, Duration::from_millis(20));
        if looks {
            verification.look_at(bytes_of(&snapshot, "embed").as_ptr_range());
        }
        verification.wait().unwrap();
    }
}

#[test]
fn what_is_found_by_who_is_about_to_read_is_told_to_who_waits() {
    let sample = Sample::new(&small_draft());
    let at = Snapshot::open(&sample.path).unwrap().tensors()[1].offset as usize;
    sample.put(at, &[sample.bytes[at] ^ 8]);
    let snapshot = Snapshot::open(&sample.path).unwrap();
    let verification = beside(&snapshot, 2);
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| verification.wait());
        verification.look_at(bytes_of(&snapshot, "layer.0").as_ptr_range());
        // Nobody has to say that it goes on.
        assert!(matches!(*waits.join().unwrap().unwrap_err(), Error::Corrupt { .. }));
    });
    verification.go_on();
    assert!(verification.wait().is_err());
}

#[test]
fn many_threads_that_read_and_go_on_at_any_moment_leave_nothing_out() {
    let sample = Sample::new(&small_draft());
    for round in 0..200 {
        let snapshot = Snapshot::open(&sample.path).unwrap();
        let verification = beside(&snapshot, 1 + round % 3);
        std::thread::scope(|scope| {
            for name in ["embed", "layer.0", "head"] {
                let (snapshot, verification) = (&snapshot, &verification);
                scope.spawn(move || verification.look_at(bytes_of(snapshot, name).as_ptr_range()));
            }
            scope.spawn(|| verification.go_on());
            verification.wait().unwrap();
        });
        assert!(snapshot.are_sound());
    }
}

#[test]
fn what_was_verified_before_is_verified_again_only_where_it_is_not_in_memory() {
    let sample = Sample::new(&small_draft());
    let tensor = Snapshot::open(&sample.path).unwrap().tensors()[0].clone();
    let bent = std::fs::File::options().write(true).open(&sample.path).unwrap();
    bent.write_all_at(&[sample.bytes[tensor.offset as usize] ^ 1], tensor.offset).unwrap();
    bent.sync_all().unwrap();
    let open = || Snapshot::open(&sample.path).unwrap();
    assert!(open().verify_in_background(2).wait().is_err());
    // Its pages are in memory, and nobody may have changed them: that is the caller's promise, broken here to see it trusted.
    open().verify_again_in_background(2).wait().unwrap();
    assert!(open().seems_resident());
    rustix::fs::fadvise(&bent, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let snapshot = open();
    let chunk = snapshot.header().chunk_range(tensor.offset / u64::from(snapshot.header().chunk_bytes));
    if snapshot.mapping().is_resident(&chunk) {
        return eprintln!("skipped: pages of files in {} do not leave memory", sample.path.display());
    }
    assert!(!snapshot.seems_resident());
    assert!(snapshot.verify_again_in_background(2).wait().is_err(), "read from the disk, so verified");
}

fn check_refused(content: &[u8], expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, content).unwrap();
    let error = Snapshot::open(&path).unwrap_err();
    assert!(error.to_string().starts_with(expected), "{error}");
    assert_eq!(error.exit_code(), 65);
}

#[test]
fn other_files_and_versions_are_named() {
    let mut bytes = Sample::new(&small_draft()).bytes;
    check_refused(b"", "not a snapshot");
    check_refused(b"GGUF", "not a snapshot: the file begins with [47, 47, 55, 46]");
    check_refused(&[0; 9000], "not a snapshot");
    check_refused(&bytes[..7], "truncated: 4096 bytes expected, 7 in the file");
    bytes[8] = 2;
    check_refused(&bytes, "snapshot format version 2, this build reads version 1");
}

#[test]
fn a_missing_file_or_a_folder_is_io_and_not_bad_data() {
    for path in ["/nonexistent/file", "/"] {
        let error = Snapshot::open(Path::new(path)).unwrap_err();
        assert_eq!(error.exit_code(), 74, "{error}");
    }
}
