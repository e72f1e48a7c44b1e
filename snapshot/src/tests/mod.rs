//! What the format promises, on files small enough to break at every byte.
#![allow(clippy::unwrap_used)]

mod damage;
mod decrypted;
mod hostile;
mod reader;
mod round_trip;

use crate::{
    Error, SectionKind, Snapshot, TensorPlan,
    seal::{Draft, Payload, seal_draft},
};
use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

pub(super) const CHUNK: u32 = 4096;

/// Bytes that differ from place to place.
pub(super) fn pattern(seed: usize, bytes: u64) -> Vec<u8> {
    (0..bytes as usize).map(|i| (i.wrapping_mul(31) ^ seed.wrapping_mul(113) ^ (i >> 8)) as u8).collect()
}

pub(super) fn tensor(name: &str, bytes: u64) -> TensorPlan {
    TensorPlan { name: name.into(), dtype: "u8".into(), layout: "row-major".into(), shape: vec![bytes], bytes }
}

pub(super) fn small_draft() -> Draft {
    Draft {
        encrypt: None,
        model: "tiny".into(),
        target: "portable".into(),
        weights: "native".into(),
        tensors: vec![tensor("embed", 700), tensor("layer.0", 4097), tensor("empty", 0), tensor("head", 1)],
        payloads: vec![
            Payload::known(SectionKind::Config, b"{}".to_vec()),
            Payload::known(SectionKind::Tokenizer, pattern(9, 5000)),
            Payload::known(SectionKind::Template, Vec::new()),
        ],
    }
}

/// Seals with each tensor's pattern.
pub(super) fn write_draft(out: &Path, draft: &Draft, chunk_bytes: u32) -> Result<crate::Sealed, Error> {
    let mut write = |i: usize, w: &mut dyn Write| w.write_all(&pattern(i, draft.tensors[i].bytes));
    seal_draft(out, draft, chunk_bytes, &mut write, &mut |_, _| {})
}

/// A folder that goes when it is dropped, and a small snapshot of several chunks in it that may be written to.
pub(super) struct Sample {
    pub(super) folder: tempfile::TempDir,
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
    pub(super) file: File,
}

impl Sample {
    pub(super) fn new(draft: &Draft) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let sealed = folder.path().join("sealed");
        write_draft(&sealed, draft, CHUNK).unwrap();
        let bytes = std::fs::read(&sealed).unwrap();
        let path = folder.path().join("copy");
        std::fs::write(&path, &bytes).unwrap();
        let file = OpenOptions::new().write(true).read(true).open(&path).unwrap();
        Self { folder, path, bytes, file }
    }

    pub(super) fn put(&self, offset: usize, bytes: &[u8]) {
        self.file.write_all_at(bytes, offset as u64).unwrap();
    }

    /// Writes `bytes` at an offset and makes every checksum that covers it fit again, as a hostile writer would.
    pub(super) fn forge(&self, offset: usize, bytes: &[u8]) {
        self.put(offset, bytes);
        let mut now = std::fs::read(&self.path).unwrap();
        resum(&mut now);
        self.put(0, &now);
    }
}

/// Recomputes table sum and header sum where the regions lie within the file.
pub(super) fn resum(file: &mut [u8]) {
    let u64_at = |file: &[u8], at: usize| u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
    for (region, sum) in [(32, 48), (56, 72)] {
        let (offset, bytes) = (u64_at(file, region), u64_at(file, region + 8));
        if let Some(part) = offset.checked_add(bytes).and_then(|end| file.get(offset..end)) {
            let value = twox_hash::XxHash3_64::oneshot(part);
            file[sum..sum + 8].copy_from_slice(&value.to_le_bytes());
        }
    }
    let value = twox_hash::XxHash3_64::oneshot(&file[..4088]);
    file[4088..4096].copy_from_slice(&value.to_le_bytes());
}

/// Opens and verifies in the background, as a restore does.
pub(super) fn open_and_wait(path: &Path, threads: usize) -> Result<Arc<Snapshot>, Arc<Error>> {
    let snapshot = Snapshot::open(path)?;
    snapshot.verify_in_background(threads).wait()?;
    Ok(snapshot)
}

/// Opens and verifies everything.
pub(super) fn open_and_verify(path: &Path) -> Result<(), Error> {
    Snapshot::open(path)?.verify_all(&mut |_, _| {})
}
