//! Chunks read into memory of the caller's: the same bytes as in the mapping, or an error.

use super::*;
use crate::{DataKey, PAGE_BYTES};

/// Room on a page, so that reading past the page cache is tried.
fn on_a_page(memory: &mut Vec<u8>, bytes: usize) -> &mut [u8] {
    memory.resize(bytes + PAGE_BYTES as usize, 0);
    let from = memory.as_ptr().align_offset(PAGE_BYTES as usize);
    &mut memory[from..from + bytes]
}

/// Out of the page cache, as far as the kernel does it.
fn forget(file: &File) {
    file.sync_all().unwrap();
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

#[test]
fn all_chunks_have_the_files_bytes_wherever_they_are() {
    let sample = Sample::new(&small_draft());
    for (is_cold, aligned, bytes_max) in
        [(false, true, 1), (true, true, 8192), (true, false, 8192), (false, false, u64::MAX)]
    {
        if is_cold {
            forget(&sample.file);
        }
        let snapshot = Snapshot::open(&sample.path).unwrap();
        let reader = snapshot.reader();
        let ranges = snapshot.whole_chunks(0..u64::MAX, bytes_max);
        assert_eq!(ranges[0].start, 4096, "behind the header");
        assert_eq!(ranges.last().unwrap().end, snapshot.header().checksums.offset);
        let mut memory = Vec::new();
        for range in &ranges {
            let bytes = (range.end - range.start) as usize;
            let room = if aligned { on_a_page(&mut memory, bytes) } else { &mut vec![0; bytes][..] };
            reader.read(range, room).unwrap();
            assert!(*room == sample.bytes[range.start as usize..range.end as usize], "{range:?}");
        }
        // Chunk 0 is the header, which has a sum of its own.
        assert!((1..snapshot.chunks()).all(|chunk| snapshot.is_sound(chunk)), "what was read counts as verified");
    }
}

#[allow(clippy::single_range_in_vec_init)]
#[test]
fn only_the_chunks_of_a_range_are_read() {
    let sample = Sample::new(&small_draft());
    let snapshot = Snapshot::open(&sample.path).unwrap();
    assert_eq!(snapshot.whole_chunks(8192..8193, u64::MAX), [8192..12288]);
    assert_eq!(snapshot.whole_chunks(8191..8193, u64::MAX), [4096..12288]);
    assert_eq!(snapshot.whole_chunks(8191..8193, 4096), [4096..8192, 8192..12288]);
    assert!(snapshot.whole_chunks(5..5, 4096).is_empty());
}

#[test]
fn a_flipped_bit_is_an_error_that_names_its_chunk() {
    let sample = Sample::new(&small_draft());
    let snapshot = Snapshot::open(&sample.path).unwrap();
    let at = snapshot.tensors()[1].range().start as usize;
    sample.put(at, &[sample.bytes[at] ^ 4]);
    forget(&sample.file);
    let reader = snapshot.reader();
    let mut memory = Vec::new();
    for range in snapshot.whole_chunks(4096..u64::MAX, 4096) {
        let read = reader.read(&range, on_a_page(&mut memory, (range.end - range.start) as usize));
        match range.contains(&(at as u64)) {
            true => assert!(matches!(read.unwrap_err(), Error::Corrupt { bytes, .. } if bytes == range)),
            false => read.unwrap(),
        }
    }
}

#[test]
fn a_file_cut_after_opening_is_an_error() {
    let sample = Sample::new(&small_draft());
    let snapshot = Snapshot::open(&sample.path).unwrap();
    let reader = snapshot.reader();
    sample.file.set_len(8192).unwrap();
    for aligned in [true, false] {
        let mut memory = Vec::new();
        let room = if aligned { on_a_page(&mut memory, 4096) } else { &mut vec![0; 4096][..] };
        let error = reader.read(&(8192..12288), room).unwrap_err();
        assert!(error.to_string().contains("cut short since it was opened"), "{error}");
    }
}

#[test]
fn an_encrypted_snapshot_is_read_from_memory() {
    let plain = Sample::new(&small_draft());
    let folder = tempfile::tempdir().unwrap();
    let operator = crate::OperatorKey::from_bytes(&[7; 32]).unwrap();
    let path = folder.path().join("encrypted");
    write_draft(&path, &Draft { encrypt: Some(operator.clone()), ..small_draft() }, CHUNK).unwrap();
    let wrapped = crate::wrapped_key(&path).unwrap();
    let file = File::open(&path).unwrap();
    let digest = crate::Header::read(&file).unwrap().digest;
    let key: DataKey = operator.unwrap(wrapped.as_bytes(), &digest).unwrap();
    let snapshot = Snapshot::decrypt(file, &key, 2).unwrap();
    let reader = snapshot.reader();
    for range in snapshot.whole_chunks(4096..u64::MAX, 8192) {
        let mut content = vec![0; (range.end - range.start) as usize];
        reader.read(&range, &mut content).unwrap();
        assert!(content == plain.bytes[range.start as usize..range.end as usize]);
    }
    assert_eq!(reader.threads(&(0..8192), 2), 2);
}
