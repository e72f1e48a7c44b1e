//! `bench decode`, `bench prefill`, `bench restore` and `bench cold-start` as somebody uses them: what they say, what they count, and how they refuse. No speed is
//! asserted.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::Value;
use std::path::Path;
use support::{golden, pilotlight, process::run};

fn bench(words: &[&str], file: &Path) -> (Option<i32>, String, String) {
    run(pilotlight().arg("bench").args(words).arg(file).args(["--runs", "2", "--threads", "2"]))
}

fn report(words: &[&str], file: &Path) -> Value {
    let (code, out, err) = bench(words, file);
    assert_eq!(code, Some(0), "{err}");
    serde_json::from_str(&out).unwrap()
}

/// Bytes of the tensors whose names hold `part`.
fn bytes(file: &Path, part: &str) -> f64 {
    let (_, out, _) = run(pilotlight().arg("inspect").arg(file).arg("--json"));
    let facts: Value = serde_json::from_str(&out).unwrap();
    let tensors = facts["tensors"].as_array().unwrap().iter();
    tensors.filter(|t| t["name"].as_str().unwrap().contains(part)).map(|t| t["bytes"].as_f64().unwrap()).sum()
}

#[test]
fn decode_says_what_it_read_and_how_much_of_memory_that_is() {
    let file = golden("llama3-tiny", "f32");
    let report = report(&["decode", "--tokens", "20", "--json"], &file);
    assert_eq!(
        (&report["model"], &report["threads"], &report["tokens"]),
        (&"llama3-tiny".into(), &2.into(), &20.into())
    );
    assert_eq!((&report["kv_format"], &report["runs"]), (&"f32".into(), &2.into()));
    let embedding = bytes(&file, "embed_tokens");
    let each = &report["bytes_per_token"];
    assert_eq!(each["weights"], bytes(&file, "") - embedding + embedding / 800.0);
    // After 16 tokens, at position 25.5 in the mean: 26.5 positions of 2 heads of 8, keys and values, in 3 layers.
    assert_eq!(each["keys_and_values"], 26.5 * 2.0 * 8.0 * 2.0 * 4.0 * 3.0);
    let number = |value: &Value| value.as_f64().unwrap();
    let speed = &report["tokens_per_second"];
    assert!(0.0 < number(&speed["min"]) && number(&speed["min"]) <= number(&speed["median"]));
    let fraction =
        number(&each["total"]) * number(&speed["median"]) / number(&report["memory_read_bytes_per_second"]["max"]);
    assert!((number(&report["fraction_of_memory"]) / fraction - 1.0).abs() < 1e-9);
}

#[test]
fn decode_counts_the_experts_that_are_used_the_embedding_that_is_the_head_and_what_a_window_shows() {
    let file = golden("mixtral-tiny", "native");
    let weights =
        |file: &Path| report(&["decode", "--tokens", "2", "--json"], file)["bytes_per_token"]["weights"].clone();
    let embedding = bytes(&file, "embed_tokens");
    let expected = bytes(&file, "") - bytes(&file, ".experts.") * 3.0 / 5.0 - embedding + embedding / 800.0;
    assert!((weights(&file).as_f64().unwrap() / expected - 1.0).abs() < 1e-9);
    let file = golden("gemma3-tiny", "f32");
    assert_eq!(weights(&file), bytes(&file, ""), "tied");
    let report = report(&["decode", "--tokens", "1", "--json", "--kv-format", "f16"], &file);
    // Position 16 sees 17 positions in layers of either kind; a window of 19 hides nothing yet.
    assert_eq!(report["bytes_per_token"]["keys_and_values"], 17.0 * 6.0 * 2.0 * 20.0 * 2.0 * 2.0);
}

#[test]
fn prefill_says_what_it_multiplied_and_how_much_of_the_arithmetic_that_is() {
    let report = report(&["prefill", "--tokens", "8", "--json"], &golden("llama3-tiny", "f32"));
    let layer = 64.0 * (64.0 + 16.0 + 16.0 + 64.0 + 3.0 * 176.0);
    let attention = 4.0 * 64.0 * 36.0 * 3.0;
    let expected = 2.0 * (3.0 * layer + 800.0 * 64.0 / 8.0) + attention / 8.0;
    assert_eq!(report["operations_per_token"], serde_json::json!({"f32": expected}));
    let number = |value: &Value| value.as_f64().unwrap();
    let limit = number(&report["arithmetic_operations_per_second"]["f32"]["max"]);
    let fraction = expected * number(&report["tokens_per_second"]["median"]) / limit;
    assert!((number(&report["fraction_of_arithmetic"]) / fraction - 1.0).abs() < 1e-9);
}

#[test]
fn people_get_lines_and_examples() {
    let file = golden("llama3-tiny", "native");
    for (what, lines) in [
        ("decode", ["tokens/s", "bytes/token", "memory read", "of the limit"]),
        ("prefill", ["tokens/s", "work/token", "arithmetic", "of the limit"]),
    ] {
        let (code, out, err) = bench(&[what, "--tokens", "4"], &file);
        assert_eq!(code, Some(0), "{err}");
        assert!(out.starts_with("llama3-tiny: 2 "), "{out}");
        assert!(lines.iter().all(|line| out.lines().any(|shown| shown.starts_with(line))), "{out}");
        let (code, out, _) = run(pilotlight().args(["bench", what, "--help"]));
        assert!(code == Some(0) && out.contains("EXAMPLES:") && out.contains("--tokens"), "{out}");
    }
}

#[test]
fn what_cannot_be_measured_is_refused_with_its_exit_code() {
    let file = golden("llama3-tiny", "native");
    let bad = tempfile::NamedTempFile::new().unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(bad.path(), bytes).unwrap();
    let nowhere = Path::new("/nowhere/x.snapshot");
    for (words, file, code, says) in [
        (&["decode", "--tokens", "0"][..], &*file, 64, "--tokens"),
        (&["prefill", "--tokens", "many"], &file, 64, "--tokens"),
        (&["decode", "--tokens", "497"], &file, 64, "room for 512"),
        (&["prefill", "--tokens", "513"], &file, 64, "room for 512"),
        (&["decode", "--instruction-set", "sse9"], &file, 64, "--instruction-set"),
        (&["decode"], nowhere, 66, "no such file"),
        (&["prefill"], bad.path(), 65, "checksum"),
    ] {
        let (found, out, err) = bench(words, file);
        assert_eq!(found, Some(code), "{words:?}: {err}");
        assert!(out.is_empty() && err.contains(says), "{words:?}: {err}");
    }
}

#[test]
fn restore_says_how_long_each_part_took_and_how_much_of_the_limits_that_is() {
    let file = golden("llama3-tiny", "native");
    let command =
        |words: &[&str]| run(pilotlight().args(["bench", "restore"]).arg(&file).args(["--runs", "2"]).args(words));
    let (code, out, err) = command(&["--json"]);
    assert_eq!(code, Some(0), "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    let bytes = std::fs::metadata(&file).unwrap().len() as f64;
    assert_eq!((&report["file_bytes"], &report["runs"]), (&(bytes as u64).into(), &2.into()));
    let number = |value: &Value| value.as_f64().unwrap();
    for (cache, limit) in
        [("page_cache_warm", "memory_read_bytes_per_second"), ("page_cache_cold", "file_read_bytes_per_second")]
    {
        let part = &report[cache];
        let [open, model, verified] = ["open_ms", "model_ms", "verified_ms"].map(|span| number(&part[span]["median"]));
        assert!(0.0 < open && open <= model && model <= verified, "{part}");
        let rate = bytes / verified * 1e3;
        assert!((number(&part["bytes_per_second"]) / rate - 1.0).abs() < 1e-9);
        assert!((number(&part["fraction_of_limit"]) * number(&part[limit]["max"]) / rate - 1.0).abs() < 1e-9);
    }
    let (code, out, _) = command(&[]);
    assert!(code == Some(0) && out.contains("verified_ms") && out.contains("of the limit"), "{out}");
}

#[test]
fn restore_of_an_encrypted_snapshot_is_set_against_decryption() {
    let folder = tempfile::TempDir::new().unwrap();
    let (file, key) = (folder.path().join("hidden"), folder.path().join("operator.key"));
    std::fs::write(&key, "5c".repeat(32)).unwrap();
    let (code, _, err) = run(pilotlight()
        .arg("seal")
        .arg(support::models::golden_folder("llama3-tiny"))
        .arg("-o")
        .arg(&file)
        .arg("--encrypt-key")
        .arg(&key));
    assert_eq!(code, Some(0), "{err}");
    let command = |words: &[&str]| run(pilotlight().args(["bench", "restore", "--runs", "1"]).arg(&file).args(words));
    let key = key.to_str().unwrap();
    // Less than it needs, more, and none.
    for memory in ["4KiB", "8MiB", "0"] {
        let (code, out, err) = command(&["--decrypt-key", key, "--ready-memory", memory, "--json"]);
        assert_eq!(code, Some(0), "{err}");
        let part = serde_json::from_str::<Value>(&out).unwrap()["page_cache_warm"].clone();
        let number = |value: &Value| value.as_f64().unwrap();
        let (rate, limit) = (number(&part["bytes_per_second"]), number(&part["decryption_bytes_per_second"]["max"]));
        assert!((number(&part["fraction_of_limit"]) * limit / rate - 1.0).abs() < 1e-9, "{part}");
    }
    let (code, _, err) = command(&[]);
    assert!(code == Some(65) && err.contains("--decrypt-key"), "{err}");
    let (code, _, err) = command(&["--ready-memory", "1MiB"]);
    assert!(code == Some(64) && err.contains("--decrypt-key"), "{err}");
    let (code, out, _) = command(&["--decrypt-key", key]);
    assert!(code == Some(0) && out.contains("decryption in the caches"), "{out}");
}

#[test]
fn cold_start_sets_the_first_token_from_zero_against_that_of_a_model_that_is_there() {
    let file = golden("llama3-tiny", "native");
    for standby in ["0", "1"] {
        let (code, out, err) =
            run(pilotlight().args(["bench", "cold-start", "--json", "--runs", "2", "--standby", standby]).arg(&file));
        assert_eq!(code, Some(0), "{err}");
        let report: Value = serde_json::from_str(&out).unwrap();
        for each in report["runs"].as_array().unwrap() {
            let [cold, hot, more] = ["client_first_token_ms", "hot_client_first_token_ms", "more_than_hot_ms"]
                .map(|name| each[name].as_f64().unwrap());
            assert!(cold > 0.0 && hot > 0.0 && (cold - hot - more).abs() < 1e-9);
            assert_eq!(each["launch_ms"].as_f64() == Some(0.0), standby == "1", "a standby is not launched: {each}");
        }
    }
}
