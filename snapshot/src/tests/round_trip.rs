//! What was sealed is what is restored.

use super::*;
use crate::{ARENA_ALIGN, EXTENT_BYTES, Header, PAGE_BYTES, SealPlan, TENSOR_ALIGN, seal};
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt;

fn draft_strategy() -> impl Strategy<Value = Draft> {
    let sizes = proptest::collection::vec(0u64..20_000, 0..12);
    let sections = proptest::collection::vec(0u64..10_000, 0..7);
    ("[a-zα-ω/-]{1,80}", sizes, sections).prop_map(|(model, sizes, sections)| {
        use SectionKind::*;
        let kinds = [Config, Tokenizer, Template, Generation, Guests, Kernels, PrefixKv];
        let payloads =
            kinds.into_iter().zip(sections).map(|(kind, bytes)| Payload::known(kind, pattern(kind as usize, bytes)));
        Draft {
            encrypt: None,
            model,
            target: "portable".into(),
            weights: "q8".into(),
            tensors: sizes.iter().enumerate().map(|(i, bytes)| tensor(&format!("t.{i}"), *bytes)).collect(),
            payloads: payloads.collect(),
        }
    })
}

/// Everything a reader sees is what the draft said, where the format promises it.
fn check_restored(snapshot: &Arc<Snapshot>, draft: &Draft) {
    assert_eq!(
        (snapshot.model(), snapshot.target(), snapshot.weights()),
        (&*draft.model, &*draft.target, &*draft.weights)
    );
    for payload in &draft.payloads {
        let section = snapshot.sections().iter().find(|section| section.kind == payload.kind).unwrap();
        assert_eq!((section.offset % PAGE_BYTES, section.bytes), (0, payload.bytes.len() as u64));
        assert_eq!(snapshot.section(section.known().unwrap()).unwrap(), Some(&payload.bytes[..]));
    }
    assert_eq!(snapshot.tensors().len(), draft.tensors.len());
    for (i, (tensor, plan)) in snapshot.tensors().iter().zip(&draft.tensors).enumerate() {
        assert_eq!(
            (&tensor.name, &tensor.dtype, &tensor.layout, &tensor.shape),
            (&plan.name, &plan.dtype, &plan.layout, &plan.shape)
        );
        let bytes = snapshot.tensor_bytes(tensor);
        assert_eq!((tensor.offset % TENSOR_ALIGN, bytes.as_ptr() as u64 % TENSOR_ALIGN), (0, 0));
        assert!(bytes == pattern(i, plan.bytes), "tensor {} differs", plan.name);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_sealed_is_restored(draft in draft_strategy(), chunk in 12u32..18, threads in 0usize..4) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let sealed = write_draft(&path, &draft, 1 << chunk).unwrap();
        let snapshot = open_and_wait(&path, threads).unwrap();
        check_restored(&snapshot, &draft);
        snapshot.verify_all(&mut |_, _| {}).unwrap();
        prop_assert_eq!((snapshot.digest(), snapshot.header().file_bytes), (sealed.digest, sealed.bytes));
    }
}

#[test]
fn same_input_gives_the_same_bytes_and_other_input_another_digest() {
    let (first, second) = (Sample::new(&small_draft()), Sample::new(&small_draft()));
    assert!(first.bytes == second.bytes);
    let mut other = small_draft();
    other.model = "other".into();
    let digest = |sample: &Sample| Header::parse(&sample.bytes).unwrap().digest;
    assert_ne!(digest(&first), digest(&Sample::new(&other)));
}

#[test]
fn the_header_is_readable_alone() {
    let sample = Sample::new(&small_draft());
    let header = Header::parse(&sample.bytes[..4096]).unwrap();
    assert_eq!((header.model.as_str(), header.file_bytes), ("tiny", sample.bytes.len() as u64));
    assert_eq!(header.weights.bytes, 768 + 4352 + 1);
    assert_eq!(Header::read(&sample.file).unwrap(), header);
}

#[test]
fn a_sealed_file_is_read_only_and_replaces_an_older_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.snapshot");
    std::fs::write(&path, "older").unwrap();
    write_draft(&path, &small_draft(), CHUNK).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o444);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    open_and_verify(&path).unwrap();
}

fn check_failed_write(write: &mut dyn FnMut(usize, &mut dyn Write) -> std::io::Result<()>, expected: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.snapshot");
    std::fs::write(&path, "older").unwrap();
    let error = seal_draft(&path, &small_draft(), CHUNK, write, &mut |_, _| {}).unwrap_err();
    assert!(error.to_string().contains(expected), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"older");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a partial file was left");
}

#[test]
fn a_failing_writer_leaves_the_older_file_and_no_partial_one() {
    check_failed_write(&mut |_, _| Err(std::io::Error::other("the disk is on fire")), "the disk is on fire");
    check_failed_write(&mut |_, w| w.write_all(&[1]), "tensor embed: 699 of 700 bytes were not written");
    check_failed_write(&mut |_, w| w.write_all(&[1; 701]), "wrote more than planned");
}

#[test]
fn a_large_arena_lies_on_huge_pages_in_extents_without_gaps() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let sizes = [EXTENT_BYTES, 3, EXTENT_BYTES + 5];
    let tensors: Vec<_> = sizes.iter().enumerate().map(|(i, bytes)| tensor(&format!("t.{i}"), *bytes)).collect();
    let plan = SealPlan {
        model: "large".into(),
        target: "portable".into(),
        weights: "native".into(),
        tensors,
        sections: vec![(SectionKind::Config, b"{}".to_vec())],
        encrypt: None,
    };
    let mut told = Vec::new();
    let sealed =
        seal(&path, plan, &mut |i, w| w.write_all(&pattern(i, sizes[i])), &mut |done, total| told.push((done, total)))
            .unwrap();
    assert!(told.is_sorted() && told.last().is_some_and(|(done, total)| done == total && *total < sealed.bytes));
    let snapshot = open_and_wait(&path, 2).unwrap();
    let mut next = snapshot.header().weights.offset;
    assert_eq!(next % ARENA_ALIGN, 0);
    for extent in snapshot.extents() {
        assert_eq!((extent.offset, extent.offset % ARENA_ALIGN), (next, 0));
        next += extent.bytes;
    }
    assert_eq!(next, snapshot.header().weights.range().unwrap().end);
    for (i, tensor) in snapshot.tensors().iter().enumerate() {
        assert!(snapshot.tensor_bytes(tensor) == pattern(i, sizes[i]));
    }
}

#[test]
fn tensor_bytes_outlive_the_snapshot_and_its_file() {
    let sample = Sample::new(&small_draft());
    let snapshot = Snapshot::open(&sample.path).unwrap();
    let bytes = snapshot.tensor_bytes(&snapshot.tensors()[1]);
    drop(snapshot);
    drop(sample.folder);
    assert!(bytes == pattern(1, 4097));
}
