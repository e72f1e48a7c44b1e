//! Tokenizers rebuilt from GGUF, on real vocabularies: each file's texts and the ids that llama.cpp has for them.

use crate::support;
use models::{Tokenizer, import::gguf};
use std::path::Path;

const BETWEEN: &str = "\n__ggml_vocab_test__\n";

fn tokenizer(folder: &Path, name: &str) -> Tokenizer {
    let file = std::fs::read(folder.join(format!("ggml-vocab-{name}.gguf"))).unwrap();
    let json = gguf::tokenizer_json(&gguf::parse(&file).unwrap()).unwrap();
    Tokenizer::from_json(&json).unwrap()
}

/// Texts that differ from llama.cpp's ids; without special tokens, as its own test has them.
fn different(name: &str, expected: &[&str]) {
    let Some(folder) = support::vocabularies() else { return };
    let tokenizer = tokenizer(&folder, name);
    let read = |kind: &str| std::fs::read_to_string(folder.join(format!("ggml-vocab-{name}.gguf.{kind}"))).unwrap();
    let (texts, ids) = (read("inp"), read("out"));
    let ids: Vec<Vec<u32>> =
        ids.lines().map(|line| line.split_whitespace().map(|id| id.parse().unwrap()).collect()).collect();
    let mut texts: Vec<&str> = texts.split(BETWEEN).collect();
    // One stands after each text.
    assert_eq!(texts.pop(), Some(""));
    assert!(texts.len() > 30 && texts.len() == ids.len(), "{} texts, {} ids", texts.len(), ids.len());
    let found: Vec<&str> = texts
        .iter()
        .zip(&ids)
        .filter(|(text, ids)| tokenizer.encode(text, false).unwrap() != **ids)
        .map(|(text, _)| *text)
        .collect();
    assert_eq!(found, expected, "{name}");
}

#[test]
fn sentencepiece_of_llama_2() {
    different("llama-spm", &[]);
}

#[test]
fn sentencepiece_of_phi_3() {
    different("phi-3", &[]);
}

#[test]
fn wordpiece_of_bge() {
    different("bert-bge", &[]);
}

#[test]
fn byte_level_bpe() {
    for name in ["llama-bpe", "qwen2", "gpt-2", "starcoder", "refact"] {
        different(name, &[]);
    }
}

/// SentencePiece's Unigram has no such file of ids; what its makers' tokenizer gives stands here.
#[test]
fn unigram_of_xlm_roberta() {
    let Some(folder) = support::vocabularies() else { return };
    let tokenizer = tokenizer(&folder, "nomic-bert-moe");
    let ids = tokenizer.encode("Hello world,  ｆｕｌｌ ½!", true).unwrap();
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "Hello world, full 1⁄2!");
    assert_eq!((ids.first(), ids.last()), (Some(&0), Some(&2)));
}
