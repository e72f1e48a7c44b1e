//! Foreign bytes through the real command: every flipped bit is found, and wrong files end in exit code 65 or a 503 that says where.
#![allow(clippy::unwrap_used)]

mod support;

use proptest::prelude::*;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use support::process::run;
use support::{Serve, golden, pilotlight};
use tempfile::TempDir;

const EX_DATAERR: Option<i32> = Some(65);

/// The command on a sample of bytes in every region; every single byte is the snapshot crate's own test.
#[test]
fn inspect_verify_finds_a_flipped_bit_anywhere_and_exits_65() {
    let folder = TempDir::new().unwrap();
    let good = fs::read(golden("llama3-tiny", "native")).unwrap();
    let file = folder.path().join("flipped.snapshot");
    let step = good.len() / 150;
    for position in (0..64).chain((0..good.len()).step_by(step)).chain(good.len() - 8..good.len()) {
        let mut bytes = good.clone();
        bytes[position] ^= 1 << (position % 8);
        fs::write(&file, &bytes).unwrap();
        let (code, _, message) = run(pilotlight().arg("inspect").arg(&file).arg("--verify"));
        assert_eq!(code, EX_DATAERR, "byte {position}: {message}");
        assert!(!message.contains("panicked"), "byte {position}: {message}");
    }
    fs::write(&file, &good).unwrap();
    assert_eq!(run(pilotlight().arg("inspect").arg(&file).arg("--verify")).0, Some(0), "and the good one passes");
}

/// The kernel stops writing as it does on a full disk, with another word for it.
#[test]
fn a_disk_that_is_full_while_sealing_is_said_and_nothing_is_left_behind() {
    let folder = TempDir::new().unwrap();
    let (model, out) = (support::models::golden_folder("llama3-tiny"), folder.path().join("m.snapshot"));
    for blocks in [0, 1, 100, 300] {
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" seal \"$1\" -o \"$2\"");
        let program = pilotlight().get_program().to_owned();
        let mut command = std::process::Command::new("sh");
        let (code, _, message) = run(command.arg("-c").arg(script).arg(program).arg(&model).arg(&out));
        assert_eq!(code, Some(74), "{blocks} blocks: {message}");
        assert!(message.contains("too large") && message.contains("m.snapshot"), "{blocks} blocks: {message}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{blocks} blocks: something is left");
    }
}

#[test]
fn serving_a_flipped_weight_is_a_503_that_names_section_and_offset_and_never_a_token() {
    let folder = TempDir::new().unwrap();
    let mut bytes = fs::read(golden("llama3-tiny", "native")).unwrap();
    let middle = bytes.len() * 2 / 3;
    bytes[middle] ^= 0x10;
    let message = answer_of(&write(&folder, "flipped", &bytes));
    assert!(message.contains("weights") && message.contains("0x"), "names section and offset: {message}");
}

#[test]
fn serving_a_truncated_file_or_a_wrong_magic_or_version_is_an_error_that_says_so() {
    let folder = TempDir::new().unwrap();
    let good = fs::read(golden("llama3-tiny", "native")).unwrap();
    for (name, bytes) in [
        ("empty", Vec::new()),
        ("short", good[..100].to_vec()),
        ("truncated", good[..good.len() / 2].to_vec()),
        ("one-byte-short", good[..good.len() - 1].to_vec()),
        ("magic", [b"NOTASNAP", &good[8..]].concat()),
        ("version", {
            let mut b = good.clone();
            b[8] = 99;
            b
        }),
        ("text", b"hello, this is no snapshot at all".to_vec()),
    ] {
        let file = write(&folder, name, &bytes);
        let (code, _, message) = run(pilotlight().arg("inspect").arg(&file));
        assert_eq!(code, EX_DATAERR, "{name}: {message}");
        let message = answer_of(&file);
        assert!(!message.is_empty() && !message.contains("panicked"), "{name}: {message}");
    }
}

#[test]
fn a_gguf_with_absurd_counts_is_bad_data() {
    let folder = TempDir::new().unwrap();
    let header = |version: u32, tensors: u64, pairs: u64| {
        [b"GGUF".as_slice(), &version.to_le_bytes(), &tensors.to_le_bytes(), &pairs.to_le_bytes()].concat()
    };
    let long_string = [header(3, 0, 1), u64::MAX.to_le_bytes().to_vec()].concat();
    let long_array = [
        header(3, 0, 1),
        1_u64.to_le_bytes().to_vec(),
        b"k".to_vec(),
        9_u32.to_le_bytes().to_vec(),
        4_u32.to_le_bytes().to_vec(),
        (u64::MAX / 4).to_le_bytes().to_vec(),
    ]
    .concat();
    for (name, bytes) in [
        ("tensors.gguf", header(3, u64::MAX, 0)),
        ("pairs.gguf", header(3, 0, u64::MAX)),
        ("both.gguf", header(3, 1 << 40, 1 << 40)),
        ("string.gguf", long_string),
        ("array.gguf", long_array),
        ("cut.gguf", b"GGUF\x03\0".to_vec()),
    ] {
        let file = folder.path().join(name);
        fs::write(&file, &bytes).unwrap();
        let (code, _, message) = run(pilotlight().arg("seal").arg(&file).arg("-o").arg(folder.path().join("out")));
        assert_eq!(code, EX_DATAERR, "{name}: {message}");
        assert!(!message.contains("panicked"), "{name}: {message}");
        assert!(!folder.path().join("out").exists(), "{name}: no partial snapshot is left");
    }
    let file = folder.path().join("version.gguf");
    fs::write(&file, header(77, 1, 1)).unwrap();
    let (code, _, message) = run(pilotlight().arg("seal").arg(&file).arg("-o").arg(folder.path().join("out")));
    assert_eq!(code, Some(69), "not wrong, but not something this version reads: {message}");
    assert!(message.contains("77"), "{message}");
}

#[test]
fn a_folder_with_a_broken_part_is_bad_data_that_names_it() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llama3-tiny");
    for (part, bytes) in [
        ("config.json", b"{".to_vec()),
        ("config.json", br#"{"model_type":"llama","hidden_size":-3}"#.to_vec()),
        ("tokenizer.json", b"[]".to_vec()),
        ("model.safetensors", u64::MAX.to_le_bytes().to_vec()),
        ("model.safetensors", fs::read(golden.join("model.safetensors")).unwrap()[..4000].to_vec()),
    ] {
        let folder = TempDir::new().unwrap();
        for file in fs::read_dir(&golden).unwrap().flatten() {
            fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
        }
        let path = folder.path().join(part);
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        let (code, _, message) =
            run(pilotlight().arg("seal").arg(folder.path()).arg("-o").arg(folder.path().join("out")));
        assert_eq!(code, EX_DATAERR, "{part}: {message}");
        assert!(message.contains(part), "names {part}: {message}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn garbage_after_a_good_magic_is_bad_data(tail in proptest::collection::vec(any::<u8>(), 0..5000)) {
        let folder = TempDir::new().unwrap();
        let good = fs::read(golden("llama3-tiny", "native")).unwrap();
        let file = write(&folder, "garbage", &[&good[..16], &tail].concat());
        let (code, _, message) = run(pilotlight().arg("inspect").arg(&file).arg("--verify"));
        prop_assert_eq!(code, EX_DATAERR, "{}", message);
    }
}

fn write(folder: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let file = folder.path().join(format!("{name}.snapshot"));
    fs::write(&file, bytes).unwrap();
    file
}

/// What a client or the operator is told: the 503's message, or what `serve` said when it refused with exit code 65.
fn answer_of(file: &Path) -> String {
    let model = format!("bad={}", file.display());
    let mut refusing = pilotlight();
    refusing.args([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--timeout",
        "60s",
        "--model",
        &model,
    ]);
    let server = match Serve::try_spawn(refusing) {
        Ok(server) => server,
        Err((code, message)) => {
            assert_eq!(code, EX_DATAERR, "{message}");
            return message;
        }
    };
    let answer = server.post("/v1/completions", &json!({"model": "bad", "prompt": [1, 2, 3], "max_tokens": 4}));
    assert_eq!(answer.status, 503, "{}", answer.text());
    answer.json()["error"]["message"].as_str().unwrap_or_default().to_owned()
}
