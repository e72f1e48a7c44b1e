//! `snapshot/FORMAT.md` is enough to read a snapshot: a reader in Python that was written by it finds what the crate finds.
#![allow(clippy::unwrap_used)]

mod support;

use kernels::{Format, Packing};
use serde_json::Value;
use snapshot::{SectionKind, Snapshot};
use std::path::Path;
use std::process::Command;
use support::golden;

/// What the reader prints; of `tensor` row 0, too.
fn read(file: &Path, tensor: &str) -> Value {
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/read_snapshot.py");
    let output = Command::new("python3").arg(reader).arg(file).arg(tensor).output().expect("python3 is on PATH");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn row(snapshot: &std::sync::Arc<Snapshot>, tensor: &snapshot::Tensor) -> Vec<f32> {
    let (format, packing) = (Format::from_name(&tensor.dtype).unwrap(), Packing::from_name(&tensor.layout).unwrap());
    let columns = *tensor.shape.last().unwrap() as usize;
    let mut stored = vec![0; format.row_bytes(columns).unwrap()];
    packing.row(format, columns, &snapshot.tensor_bytes(tensor), 0, &mut stored);
    let mut values = vec![0.0; columns];
    format.dequantize_row(&stored, &mut values);
    values
}

#[test]
fn another_program_reads_sections_tensors_and_numbers() {
    let mut seen = Vec::new();
    for weights in ["native", "f32", "bf16", "q8", "q4"] {
        let file = golden("llama3-tiny", weights);
        let snapshot = Snapshot::open(&file).unwrap();
        let (header, name) = (snapshot.header(), "model.layers.1.self_attn.o_proj.weight");
        let facts = read(&file, name);
        assert_eq!(facts["digest"], snapshot.digest(), "{weights}");
        let words = [&facts["model"], &facts["target"], &facts["weights_word"]];
        assert_eq!(words, [snapshot.model(), snapshot.target(), weights]);
        assert_eq!(
            (&facts["file_bytes"], &facts["chunk_bytes"]),
            (&header.file_bytes.into(), &header.chunk_bytes.into())
        );
        let tensors: Vec<snapshot::Tensor> = serde_json::from_value(facts["tensors"].clone()).unwrap();
        assert_eq!(tensors, snapshot.tensors());
        for kind in [SectionKind::Config, SectionKind::Generation, SectionKind::Tokenizer] {
            let bytes = snapshot.section(kind).unwrap().unwrap();
            assert_eq!(facts["sections"][kind.name()], sha256(bytes), "{weights}: {}", kind.name());
        }
        let tensor = tensors.iter().find(|tensor| tensor.name == name).unwrap();
        let numbers: Vec<f32> = serde_json::from_value(facts["row"].clone()).unwrap();
        assert_eq!(numbers, row(&snapshot, tensor), "{weights}: {} in {}", tensor.dtype, tensor.layout);
        seen.push(tensor.dtype.clone());
    }
    seen.sort();
    seen.dedup();
    assert!(seen.len() >= 3, "several ways to store numbers: {seen:?}");
}

#[test]
fn another_program_refuses_a_flipped_bit() {
    let folder = tempfile::TempDir::new().unwrap();
    let mut bytes = std::fs::read(golden("llama3-tiny", "native")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let file = folder.path().join("bent");
    std::fs::write(&file, bytes).unwrap();
    let reader = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/read_snapshot.py");
    let output = Command::new("python3").arg(reader).arg(&file).output().unwrap();
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("digest"));
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
