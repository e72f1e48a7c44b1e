//! The GGUF container and what is made of it: right files read right, wrong ones refused with field and byte offset.

use crate::support::{
    gguf::{self, Value, Writer},
    llama::Llama,
};
use models::{Error, ModelConfig, RopeScaling, Source, Tokenizer, import};
use proptest::prelude::*;
use std::path::Path;

fn open(file: &[u8]) -> Result<Source, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, file).unwrap();
    Source::open(&path)
}

fn config(file: &Writer) -> Result<ModelConfig, Error> {
    Ok(open(&file.bytes())?.config().clone())
}

/// The error must be of this kind and hold all these words.
fn check(file: &[u8], unsupported: bool, words: &[&str]) {
    let error = open(file).err().expect("the file is wrong");
    let text = error.to_string();
    assert_eq!(matches!(error, Error::Unsupported(_)), unsupported, "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} in: {text}");
    }
}

#[test]
fn a_written_file_reads_back() {
    for version in [2, 3] {
        let mut file = Llama::default().gguf();
        file.version = version;
        file.alignment = 64;
        file.set("general.alignment", Value::U32(64));
        let bytes = file.bytes();
        let read = import::gguf::parse(&bytes).unwrap();
        assert_eq!((read.version, read.tensors.len()), (version, file.tensors.len()));
        for (read, written) in read.tensors.iter().zip(&file.tensors) {
            assert_eq!(read.name, written.name);
            assert_eq!(&bytes[read.range.clone()], &written.data, "{}", read.name);
            assert_eq!(read.range.start % 64, 0);
        }
        assert_eq!(read.metadata["llama.block_count"].as_u64(), Some(2));
    }
}

#[test]
fn metadata_becomes_the_configuration() {
    let mut file = Llama { tied: true, head_dim: 32, ..Llama::default() }.gguf();
    let full = config(&file).unwrap();
    assert_eq!((full.heads, full.kv_heads, full.head_dim, full.layers, full.vocab_size), (4, 2, 32, 2, 288));
    assert!(full.tied_embedding && full.rope.scaling == RopeScaling::None && full.rms_norm_eps == 1e-5);
    file = Llama { kv_heads: 4, ..Llama::default() }.gguf();
    for key in ["attention.head_count_kv", "attention.key_length", "context_length", "rope.freq_base", "vocab_size"] {
        file.unset(&format!("llama.{key}"));
    }
    let defaults = config(&file).unwrap();
    assert_eq!((defaults.kv_heads, defaults.head_dim, defaults.context_length), (4, 16, 2048));
    assert!(!defaults.tied_embedding && defaults.rope.theta == 10_000.0);
}

#[test]
fn rope_scaling_is_linear_or_by_factors() {
    let mut file = Llama::default().gguf();
    file.set("llama.rope.scaling.type", Value::Text("linear".into()));
    file.set("llama.rope.scaling.factor", Value::F32(4.0));
    assert_eq!(config(&file).unwrap().rope.scaling, RopeScaling::Linear { factor: 4.0 });
    let mut file = Llama::default().gguf();
    let factors: Vec<u8> = (1..=8).flat_map(|n| (n as f32).to_le_bytes()).collect();
    file.tensor("rope_freqs.weight", &[8], gguf::F32, factors);
    let expected = (1..=8).map(f64::from).collect();
    assert_eq!(config(&file).unwrap().rope.scaling, RopeScaling::Factors { factors: expected });
    file.set("llama.rope.scaling.type", Value::Text("yarn".into()));
    check(&file.bytes(), false, &["llama.rope.scaling.factor", "yarn"]);
    file.set("llama.rope.scaling.type", Value::Text("dynamic".into()));
    check(&file.bytes(), true, &["llama.rope.scaling.type", "dynamic"]);
}

#[test]
fn what_is_not_run_is_refused_by_name() {
    let with = |key: &str, value| {
        let mut file = Llama::default().gguf();
        file.set(key, value);
        file.bytes()
    };
    let text = |text: &str| Value::Text(text.into());
    check(&with("general.architecture", text("mamba")), true, &["mamba", "llama"]);
    check(&with("general.type", text("adapter")), true, &["LoRA"]);
    check(&with("llama.expert_count", Value::U32(8)), true, &["expert"]);
    check(&with("llama.attention.head_count", Value::I32s(vec![4, 2])), true, &["head_count", "layer"]);
    check(&with("tokenizer.ggml.model", text("rwkv")), true, &["tokenizer.ggml.model", "`rwkv`", "bert"]);
    check(&with("tokenizer.ggml.model", text("llama")), false, &["tokenizer.ggml.scores", "288"]);
    check(&with("tokenizer.ggml.pre", text("viking")), true, &["tokenizer.ggml.pre", "viking", "smollm"]);
    let mut file = Llama::default().gguf();
    file.tensor("blk.0.attn_mystery.bias", &[64], gguf::F32, vec![0; 256]);
    check(&file.bytes(), true, &["blk.0.attn_mystery.bias", "llama"]);
    let mut file = Llama::default().gguf();
    file.tensors[3].kind = 16;
    let name = file.tensors[3].name.clone();
    check(&file.bytes(), true, &[&name, "IQ2_XXS", "Q4_1"]);
}

#[test]
fn what_differs_from_a_plain_llama_is_read() {
    let with = |key: &str, value| {
        let mut file = Llama::default().gguf();
        file.set(key, value);
        open(&file.bytes()).unwrap().config().variant.clone()
    };
    let sliding = with("llama.attention.sliding_window", Value::U32(8)).sliding.unwrap();
    assert_eq!((sliding.window, sliding.layers), (8, vec![true; 2]));
    assert_eq!(with("llama.rope.dimension_count", Value::U32(8)).rotary_dim, Some(8));
    // A bias on one of the three projections alone is a file that lacks the others.
    let mut file = Llama::default().gguf();
    file.tensor("blk.0.attn_q.bias", &[64], gguf::F32, vec![0; 256]);
    check(&file.bytes(), false, &["blk.0.attn_k.bias", "missing"]);
}

#[test]
fn what_is_wrong_is_named() {
    let with = |key: &str, value| {
        let mut file = Llama::default().gguf();
        file.set(key, value);
        file.bytes()
    };
    check(&with("llama.embedding_length", Value::U32(128)), false, &["token_embd.weight", "[288, 64]", "[288, 128]"]);
    check(&with("llama.attention.head_count_kv", Value::U32(3)), false, &["kv_heads", "3"]);
    check(&with("llama.block_count", Value::Text("two".into())), false, &["llama.block_count"]);
    check(&with("llama.block_count", Value::U32(u32::MAX)), false, &["layers", "4294967295"]);
    check(&with("llama.block_count", Value::U32(3)), false, &["blk.2.attn_norm.weight", "missing"]);
    check(&with("general.alignment", Value::U32(24)), false, &["general.alignment", "byte"]);
    check(&with("tokenizer.ggml.token_type", Value::I32s(vec![1])), false, &["token_type", "288"]);
    check(
        &with("tokenizer.ggml.merges", Value::Texts(vec!["ab".into()])),
        false,
        &["tokenizer.ggml.merges", "entry 0"],
    );
    check(&with("tokenizer.ggml.merges", Value::Texts(vec!["zz y".into()])), false, &["merge 0", "zz"]);
    check(&with("tokenizer.chat_template", Value::Text("{% for %}".into())), false, &["chat template"]);
    let mut file = Llama::default().gguf();
    file.tensors[5].name = file.tensors[4].name.clone();
    check(&file.bytes(), false, &["twice", "byte"]);
    let mut file = Llama::default().gguf();
    file.metadata.push(file.metadata[0].clone());
    check(&file.bytes(), false, &["general.architecture", "twice"]);
    check(b"GGML", false, &["magic", "byte 0"]);
    check(b"GGUF\x09\0\0\0", true, &["version 9"]);
    check(b"GGUF\0\0\0\x03", true, &["big-endian"]);
    check(b"", false, &["magic", "byte 0"]);
}

/// Sets eight bytes at `at` to an absurd count: an error that says where, and no allocation of that size.
#[test]
fn absurd_counts_are_refused_at_their_place() {
    let bytes = Llama::default().gguf().bytes();
    for (at, field) in [(8, "tensor count"), (16, "metadata count"), (24, "key of metadata entry 0")] {
        for count in [u64::MAX, u64::MAX / 2, 1 << 40, bytes.len() as u64] {
            let mut bytes = bytes.clone();
            bytes[at..at + 8].copy_from_slice(&count.to_le_bytes());
            check(&bytes, false, &[field, "byte"]);
        }
    }
}

#[test]
fn absurd_tensors_are_refused_by_name() {
    for extents in [vec![0, 64], vec![u64::MAX, 2], vec![1 << 62, 1 << 62], vec![33, 1], vec![], vec![1; 5]] {
        let mut file = Llama::default().gguf();
        file.tensor("extra", &extents, gguf::Q4_0, Vec::new());
        check(&file.bytes(), false, &["extra", "byte"]);
    }
    // Right in itself, but past the end of the file.
    let mut file = Llama::default().gguf();
    file.tensor("extra", &[64], gguf::F32, vec![0; 252]);
    check(&file.bytes(), false, &["extra", "256 bytes", "end"]);
}

#[test]
fn a_file_cut_short_at_any_byte_is_refused() {
    let model =
        Llama { vocab: 258, hidden: 2, inner: 1, heads: 1, kv_heads: 1, head_dim: 2, layers: 1, ..Llama::default() };
    let bytes = model.gguf().bytes();
    assert!(open(&bytes).is_ok());
    for length in 0..bytes.len() {
        let error = import::gguf::parse(&bytes[..length]).expect_err("cut short").to_string();
        assert!(error.contains("byte"), "{length}: {error}");
    }
}

proptest! {
    #[test]
    fn garbage_is_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(import::gguf::parse(&bytes).is_err());
        let mut named = b"GGUF\x03\0\0\0".to_vec();
        named.extend(&bytes);
        let _ = import::gguf::parse(&named);
    }

    /// Whatever a parse returns lies inside the file.
    #[test]
    fn a_file_with_a_few_wrong_bytes_is_no_panic(changes in prop::collection::vec((0usize..6000, any::<u8>()), 1..6)) {
        let mut bytes = Llama { hidden: 32, layers: 1, ..Llama::default() }.gguf().bytes();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        if let Ok(read) = import::gguf::parse(&bytes) {
            prop_assert!(read.tensors.iter().all(|tensor| tensor.range.end <= bytes.len()));
        }
        let _ = open(&bytes);
    }
}

fn vocabulary(pre: &str, tokens: &[&str], merges: &[&str]) -> Tokenizer {
    let mut all = crate::support::llama::byte_tokens(258);
    all.extend(tokens.iter().map(|token| (*token).to_owned()));
    let model = Llama { vocab: all.len(), ..Llama::default() };
    let mut file = model.gguf();
    let kinds = (0..all.len()).map(|id| if id < 2 { 3 } else { 1 }).collect();
    file.set("tokenizer.ggml.pre", Value::Text(pre.into()));
    file.set("tokenizer.ggml.tokens", Value::Texts(all));
    file.set("tokenizer.ggml.token_type", Value::I32s(kinds));
    file.set("tokenizer.ggml.merges", Value::Texts(merges.iter().map(|merge| (*merge).to_owned()).collect()));
    Tokenizer::from_json(open(&file.bytes()).unwrap().tokenizer_json()).unwrap()
}

fn tokens(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let ids = tokenizer.encode(text, true).unwrap();
    ids.iter().map(|&id| String::from_utf8(tokenizer.token_bytes(id)).unwrap()).collect()
}

#[test]
fn each_pre_tokenizer_cuts_numbers_its_own_way() {
    let (words, merges) = (["12", "34", "123", "1234"], ["1 2", "3 4", "12 3", "12 34"]);
    for (pre, expected) in [
        ("smollm", &["1", "2", "3", "4"][..]),
        ("gpt-2", &["1234"]),
        ("llama-bpe", &["<s>", "123", "4"]),
        ("llama3", &["<s>", "123", "4"]),
        ("qwen2", &["1", "2", "3", "4"]),
        ("default", &["123", "4"]),
    ] {
        assert_eq!(tokens(&vocabulary(pre, &words, &merges), "1234"), expected, "{pre}");
    }
}

#[test]
fn llama3_takes_a_whole_word_whatever_the_merges_say() {
    let words = ["Ġab", "ab"];
    assert_eq!(tokens(&vocabulary("llama-bpe", &words, &[]), " ab"), ["<s>", " ab"]);
    assert_eq!(tokens(&vocabulary("gpt-2", &words, &[]), " ab"), [" ", "a", "b"]);
}

#[test]
fn a_missing_file_is_named() {
    let error = Source::open(Path::new("/no/such/model.gguf")).err().unwrap();
    assert!(matches!(&error, Error::Io(_)) && error.to_string().contains("/no/such/model.gguf"), "{error}");
}
