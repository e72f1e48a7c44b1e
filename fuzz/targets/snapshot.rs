//! A snapshot of any bytes: opened, verified, every tensor and section read. Checksums are put right first, so that the
//! fuzzer reaches what lies behind them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, memfd_create};
use snapshot::{Header, SectionKind, Snapshot};
use std::{fs::File, io::Write, ops::Range};
use twox_hash::XxHash3_64;

const HEADER_BYTES: usize = 4096;

fuzz_target!(|input: &[u8]| {
    let _ = Header::parse(input);
    let mut bytes = input.to_vec();
    repair(&mut bytes);
    open(&bytes);
});

fn open(bytes: &[u8]) {
    let mut file = File::from(memfd_create("snapshot", MemfdFlags::CLOEXEC).expect("memory files are available"));
    file.write_all(bytes).expect("a memory file is written");
    let Ok(snapshot) = Snapshot::from_file(file) else { return };
    let whole = snapshot.verify_all(&mut |_, _| {}).is_ok();
    let chunks = snapshot.verify_in_background(1).wait().is_ok();
    assert!(chunks || !whole, "the whole is sound and a chunk is not");
    let length = snapshot.header().file_bytes;
    for tensor in snapshot.tensors() {
        assert_eq!(snapshot.tensor_bytes(tensor).len() as u64, tensor.bytes);
        assert!(tensor.offset % snapshot::TENSOR_ALIGN == 0 && tensor.offset + tensor.bytes <= length);
    }
    for kind in [SectionKind::Config, SectionKind::Tokenizer, SectionKind::Weights] {
        let _ = snapshot.section(kind);
    }
}

/// Table, chunks and header get sums that fit, where the header's regions lie within the file.
fn repair(bytes: &mut [u8]) {
    if bytes.len() < HEADER_BYTES {
        return;
    }
    let length = bytes.len() as u64;
    bytes[24..32].copy_from_slice(&length.to_le_bytes());
    let (table, checksums) = (region(bytes, 32), region(bytes, 56));
    if let Some(part) = table.and_then(|range| bytes.get(range)) {
        put_sum(bytes, 48, XxHash3_64::oneshot(part));
    }
    if let Some(range) = checksums.filter(|range| range.end <= bytes.len()) {
        let chunk = u32::from_le_bytes(bytes[20..24].try_into().expect("4 bytes")).max(4096) as usize;
        for (i, at) in range.clone().step_by(8).enumerate().take_while(|(_, at)| at + 8 <= range.end) {
            let start = i.saturating_mul(chunk).max(HEADER_BYTES);
            let end = (i + 1).saturating_mul(chunk).min(range.start);
            if let Some(part) = bytes.get(start..end) {
                put_sum(bytes, at, XxHash3_64::oneshot(part));
            }
        }
        put_sum(bytes, 72, XxHash3_64::oneshot(&bytes[range]));
    }
    put_sum(bytes, 4088, XxHash3_64::oneshot(&bytes[..4088]));
}

fn region(bytes: &[u8], at: usize) -> Option<Range<usize>> {
    let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes")) as usize;
    Some(word(at)..word(at).checked_add(word(at + 8))?)
}

fn put_sum(bytes: &mut [u8], at: usize, sum: u64) {
    bytes[at..at + 8].copy_from_slice(&sum.to_le_bytes());
}
