//! `bench decode` and `bench prefill` as somebody uses them: what they say, what they count, and how they refuse. No speed is
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
