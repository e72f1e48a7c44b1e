//! `/v1/embeddings` with the real all-MiniLM-L6-v2, from zero, against what transformers computes.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::path::Path;
use support::{Serve, golden, minilm};

fn serve() -> Option<Serve> {
    let model = format!("minilm={}", minilm()?.display());
    Some(Serve::start(&["--model", &model, "--idle", "60s"]))
}

fn cases() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/minilm.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    golden["cases"].as_array().unwrap().clone()
}

fn vector(value: &Value) -> Vec<f64> {
    value.as_array().unwrap_or_else(|| panic!("{value}")).iter().map(|x| x.as_f64().unwrap()).collect()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

#[test]
fn minilm_embeddings_are_sentence_transformers_embeddings() {
    let Some(server) = serve() else { return };
    let cases = cases();
    let texts: Vec<&Value> = cases.iter().map(|case| &case["text"]).collect();
    let body = json!({"model": "minilm", "input": texts, "truncate_prompt_tokens": -1});
    let answer = server.post("/v1/embeddings", &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = answer.json();
    let tokens: usize = cases.iter().map(|case| case["ids"].as_array().unwrap().len()).sum();
    assert_eq!(answer["usage"]["prompt_tokens"], tokens, "the same tokens: {}", answer["usage"]);
    for (i, case) in cases.iter().enumerate() {
        let data = &answer["data"][i];
        assert_eq!((&data["index"], &data["object"]), (&json!(i), &json!("embedding")));
        let similar = cosine(&vector(&data["embedding"]), &vector(&case["embedding"]));
        assert!(similar >= 0.9999, "{}: cosine {similar}", case["text"]);
        // Alone and by its ids it is the same to the last bit.
        let alone = server.post("/v1/embeddings", &json!({"model": "minilm", "input": case["ids"]})).json();
        assert_eq!(alone["data"][0]["embedding"], data["embedding"], "{}", case["text"]);
    }
}

#[test]
fn what_cannot_be_embedded_is_named() {
    let Some(server) = serve() else { return };
    let refused = |path: &str, body: Value, words: &[&str]| {
        let answer = server.post(path, &body);
        assert_eq!(answer.status, 400, "{}", answer.text());
        assert!(words.iter().all(|word| answer.text().contains(word)), "{words:?} in {}", answer.text());
    };
    let long = "word ".repeat(400);
    refused("/v1/embeddings", json!({"model": "minilm", "input": ["short", long]}), &["input[1]", "402", "256"]);
    refused("/v1/embeddings", json!({"model": "minilm", "input": [40000]}), &["input", "40000", "30522"]);
    refused("/v1/embeddings", json!({"model": "minilm", "input": "a", "dimensions": 7}), &["dimensions", "384"]);
    refused("/v1/embeddings", json!({"model": "minilm"}), &["input", "required"]);
    refused("/v1/completions", json!({"model": "minilm", "prompt": "a"}), &["minilm", "/v1/embeddings"]);
    let tiny = format!("tiny={}", golden("llama3-tiny", "native").display());
    let tiny = Serve::start(&["--model", &tiny]);
    let answer = tiny.post("/v1/embeddings", &json!({"model": "tiny", "input": "a"}));
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(answer.text().contains("generates text"), "{}", answer.text());
}

#[test]
fn a_text_far_beyond_the_context_is_refused_or_cut_before_it_is_tokenized() {
    let Some(server) = serve() else { return };
    let ask = |text: String, more: Value| {
        let mut body = json!({"model": "minilm", "input": ["a", text]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.post("/v1/embeddings", &body)
    };
    let refused = ask("lamp ".repeat(1_000_000), json!({}));
    assert_eq!(refused.status, 400, "{}", refused.text());
    let error = refused.json()["error"].clone();
    assert_eq!((&error["code"], &error["param"]), (&json!("context_length_exceeded"), &json!("input[1]")), "{error}");
    let cut = json!({"truncate_prompt_tokens": -1});
    let (long, short) = (ask("lamp ".repeat(1_000_000), cut.clone()).json(), ask("lamp ".repeat(1000), cut).json());
    assert_eq!(long["data"][1]["embedding"], short["data"][1]["embedding"], "{}", long["usage"]);
    assert_eq!(long["usage"], short["usage"]);
}
