//! Pulling files and folders of the user's; listing; removing.

use super::*;
use crate::Error;
use snapshot::{SealPlan, SectionKind, TensorPlan};
use std::{fs::File, os::unix::fs::FileExt};

fn seal(path: &Path, weights: &str) {
    let tensor =
        TensorPlan { name: "t".into(), dtype: "u8".into(), layout: "row-major".into(), shape: vec![9], bytes: 9 };
    let plan = SealPlan {
        model: "m".into(),
        target: "portable".into(),
        weights: weights.into(),
        tensors: vec![tensor],
        sections: vec![(SectionKind::Config, b"{}".to_vec())],
        encrypt: None,
    };
    snapshot::seal(path, plan, &mut |_, w| w.write_all(&[7; 9]), &mut |_, _| {}).unwrap();
}

#[test]
fn a_file_is_copied_listed_and_removed_with_a_receipt() {
    let fixture = Fixture::new();
    let source = fixture.file("My Model.gguf", b"GGUFabc");
    let mut steps = Vec::new();
    let entry = fixture.store().pull(&source, Some("mine"), &mut |progress| steps.push(progress)).unwrap();
    assert_eq!(entry.path, fixture.root().join("models/mine/files/My-Model.gguf"));
    assert_eq!(fs::read(&entry.path).unwrap(), b"GGUFabc");
    assert_eq!((entry.bytes, entry.source.as_str(), entry.revision.as_deref()), (7, source.as_str(), None));
    assert_eq!(entry.sha256.len(), 64);
    assert!(steps.iter().any(|step| step.done == 7 && step.total == Some(7)));
    fs::write(&source, "GGUF edited").unwrap();
    assert_eq!(fs::read(&entry.path).unwrap(), b"GGUFabc", "the store must not follow its source");

    let sealed = fixture.store().snapshot_path("mine", "native");
    seal(&sealed, "native");
    let listed = fixture.store().list().unwrap();
    assert_eq!((listed.len(), &listed[0].snapshots), (1, &vec![sealed.clone()]));

    let digest = snapshot::Header::read(&File::open(&sealed).unwrap()).unwrap().digest_hex();
    let receipt = fixture.store().remove("mine").unwrap();
    let removed: Vec<_> = receipt.removed.iter().map(|(path, _)| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(removed, ["entry.json", "My-Model.gguf", "native.snapshot"]);
    assert_eq!(receipt.digests, [(entry.path, entry.sha256), (sealed, digest)]);
    assert_empty(&fixture);
    assert!(matches!(fixture.store().remove("mine"), Err(Error::NotFound { .. })));
}

#[test]
fn other_content_under_a_name_drops_its_snapshots_and_the_same_keeps_them() {
    let fixture = Fixture::new();
    let source = fixture.file("m.gguf", b"GGUF one");
    fixture.store().pull(&source, None, &mut quiet).unwrap();
    let sealed = fixture.store().snapshot_path("m", "native");
    seal(&sealed, "native");
    let key = snapshot::key_path(&sealed);
    fs::write(&key, "wrapped").unwrap();
    assert_eq!(fixture.store().pull(&source, None, &mut quiet).unwrap().snapshots, [sealed]);
    assert_eq!(fs::read_to_string(&key).unwrap(), "wrapped", "without it the snapshot would be lost");
    fixture.file("m.gguf", b"GGUF two");
    let entry = fixture.store().pull(&source, None, &mut quiet).unwrap();
    assert_eq!(entry.snapshots, [] as [std::path::PathBuf; 0]);
    assert_eq!(fs::read(entry.path).unwrap(), b"GGUF two");
    assert_eq!(count(&fixture.root().join("incoming")), 0);
}

#[test]
fn a_folder_brings_what_a_model_needs_and_nothing_else() {
    let fixture = Fixture::new();
    for name in ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
        fixture.file(&format!("tiny/{name}"), name.as_bytes());
    }
    for name in ["README.md", "modeling.py", "pytorch_model.bin", "consolidated.safetensors", "sub/config.json"] {
        fixture.file(&format!("tiny/{name}"), b"x");
    }
    let source = fixture.folder.path().join("tiny");
    let entry = fixture.store().pull(source.to_str().unwrap(), None, &mut quiet).unwrap();
    assert_eq!((entry.name.as_str(), &entry.path), ("tiny", &fixture.root().join("models/tiny/files")));
    let names: Vec<_> = entry.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(names, ["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]);
    assert_eq!(count(&entry.path), 3);
}

#[test]
fn a_snapshot_is_verified_and_lies_where_one_sealed_here_would() {
    let fixture = Fixture::new();
    let path = fixture.folder.path().join("x.snapshot");
    seal(&path, "q8");
    let source = path.to_str().unwrap();
    let entry = fixture.store().pull(source, Some("sealed"), &mut quiet).unwrap();
    assert_eq!(entry.snapshots, [fixture.store().snapshot_path("sealed", "q8")]);
    assert_eq!(entry.path, entry.snapshots[0]);
    fixture.store().remove("sealed").unwrap();

    let damaged = fixture.file("damaged.snapshot", &fs::read(&path).unwrap());
    let last_of_padding = 8191;
    File::options().write(true).open(&damaged).unwrap().write_all_at(&[1], last_of_padding).unwrap();
    let error = fixture.store().pull(&damaged, None, &mut quiet).unwrap_err();
    assert_eq!(error.exit_code(), 65);
    assert!(error.to_string().contains("checksum mismatch"), "{error}");
    assert_empty(&fixture);
}

#[test]
fn one_name_is_pulled_by_one_at_a_time() {
    let fixture = Fixture::new();
    let (first, second) = (fixture.file("a.gguf", b"GGUF a"), fixture.file("b.gguf", b"GGUF b"));
    let mut refused = 0;
    let entry = fixture.store().pull(&first, Some("x"), &mut |_| {
        let store = fixture.store();
        for result in [store.pull(&second, Some("x"), &mut quiet).map(|_| ()), store.remove("x").map(|_| ())] {
            refused += usize::from(matches!(result, Err(Error::Busy { .. })));
        }
        store.pull(&second, Some("y"), &mut quiet).unwrap();
        assert_eq!(store.get("x").unwrap(), None, "a partial pull can be seen");
    });
    assert_eq!(fs::read(entry.unwrap().path).unwrap(), b"GGUF a");
    assert!(refused >= 2);
    assert_eq!(fixture.store().list().unwrap().len(), 2);
}

#[test]
fn what_a_killed_pull_left_is_cleared_by_the_next() {
    let fixture = Fixture::new();
    let source = fixture.file("a.gguf", b"GGUF a");
    let store = fixture.store();
    fs::create_dir_all(fixture.root().join("incoming/a/files")).unwrap();
    fs::write(fixture.root().join("incoming/a/files/a.gguf"), "half").unwrap();
    let entry = store.pull(&source, None, &mut quiet).unwrap();
    assert_eq!(fs::read(entry.path).unwrap(), b"GGUF a");
    assert_eq!(count(&fixture.root().join("incoming")), 0);
}

#[test]
fn a_broken_record_is_named_and_can_be_removed() {
    let fixture = Fixture::new();
    let source = fixture.file("a.gguf", b"GGUF a");
    fixture.store().pull(&source, None, &mut quiet).unwrap();
    let record = fixture.root().join("models/a/entry.json");
    for broken in ["", "{}", "[1]", "{\"format\": 1, \"unknown\": 2}"] {
        fs::write(&record, broken).unwrap();
        let error = fixture.store().list().unwrap_err();
        assert!(error.to_string().starts_with(record.to_str().unwrap()), "{error}");
        assert_eq!(error.exit_code(), 65);
    }
    assert_eq!(fixture.store().remove("a").unwrap().removed.len(), 2);
    assert_empty(&fixture);
}
