//! Hugging Face folders: configurations old and new, shards, and what is wrong with them.

use crate::support::{self, huggingface as hf, llama::Llama};
use models::{Error, RopeScaling, Source, import};
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use std::path::Path;

/// The default model's folder with its configuration changed; `null` removes a key.
fn open(changes: Json) -> Result<Source, Error> {
    let folder = tempfile::tempdir().unwrap();
    Llama::default().folder(folder.path());
    let mut config = Llama::default().config();
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Json::Null => config.as_object_mut().unwrap().remove(key),
            value => config.as_object_mut().unwrap().insert(key.clone(), value.clone()),
        };
    }
    hf::write_json(folder.path(), "config.json", &config);
    Source::open(folder.path())
}

fn refused(source: Result<Source, Error>, unsupported: bool, words: &[&str]) {
    let error = source.err().expect("the folder is wrong");
    let text = error.to_string();
    assert_eq!(matches!(error, Error::Unsupported(_)), unsupported, "{text}");
    for word in words {
        assert!(text.contains(word), "{word:?} in: {text}");
    }
}

fn check(changes: Json, unsupported: bool, words: &[&str]) {
    refused(open(changes), unsupported, words);
}

#[test]
fn llama3_tiny_is_read() {
    let source = Source::open(&support::golden("llama3-tiny")).unwrap();
    let config = source.config();
    assert_eq!((config.layers, config.heads, config.kv_heads, config.head_dim), (3, 8, 2, 8));
    let scaling =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 64 };
    assert_eq!((config.rope.theta, &config.rope.scaling), (500_000.0, &scaling));
    assert_eq!((source.generation().bos, &source.generation().eos[..]), (Some(0), &[1][..]));
    assert!(!config.tied_embedding);
}

#[test]
fn rope_is_read_in_every_style() {
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    });
    let mut new = llama3.clone();
    new["rope_theta"] = json!(7.0);
    let expected =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 64 };
    for changes in [
        json!({"rope_parameters": new}),
        json!({"rope_parameters": {"full_attention": new}}),
        json!({"rope_parameters": {"full_attention": new, "sliding_attention": new}}),
        json!({"rope_parameters": null, "rope_theta": 7, "rope_scaling": llama3}),
    ] {
        let rope = open(changes.clone()).unwrap().config().rope.clone();
        assert_eq!((rope.theta, &rope.scaling), (7.0, &expected), "{changes}");
    }
    for scaling in [json!({"type": "linear", "factor": 2.0}), json!({"rope_type": "linear", "factor": 2})] {
        let rope = open(json!({"rope_parameters": null, "rope_scaling": scaling})).unwrap().config().rope.clone();
        assert_eq!((rope.theta, rope.scaling), (10_000.0, RopeScaling::Linear { factor: 2.0 }));
    }
    let rope = open(json!({"rope_parameters": null, "rope_theta": 9.0})).unwrap().config().rope.clone();
    assert_eq!((rope.theta, rope.scaling), (9.0, RopeScaling::None));
    let differ = json!({"a": {"rope_theta": 1.0}, "b": {"rope_theta": 2.0}});
    check(json!({"rope_parameters": differ}), true, &["rope_parameters"]);
    check(json!({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}), true, &["dynamic", "yarn"]);
    check(json!({"rope_parameters": {"rope_type": "yarn"}}), false, &["factor", "missing"]);
    let rope = open(json!({"rope_parameters": {"rope_type": "yarn", "rope_theta": 10.0, "factor": 4.0}}));
    let RopeScaling::Yarn { factor, beta_fast, beta_slow, truncate, attention_factor, .. } =
        rope.unwrap().config().rope.scaling
    else {
        panic!("yarn is not read");
    };
    assert_eq!((factor, beta_fast, beta_slow, truncate), (4.0, 32.0, 1.0, true));
    assert!((attention_factor - (1.0 + 0.1 * 4f64.ln())).abs() < 1e-12);
    check(json!({"rope_parameters": {"rope_type": "llama3", "factor": 2.0}}), false, &["low_freq_factor", "missing"]);
    let partial = open(json!({"rope_parameters": {"partial_rotary_factor": 0.5}})).unwrap();
    assert_eq!(partial.config().variant.rotary_dim, Some(8));
}

#[test]
fn absent_keys_have_transformers_defaults() {
    let config = open(json!({"head_dim": null, "rms_norm_eps": null, "tie_word_embeddings": null})).unwrap();
    assert_eq!((config.config().head_dim, config.config().rms_norm_eps), (16, 1e-6));
    assert!(!config.config().tied_embedding);
}

#[test]
fn generation_has_one_end_or_several() {
    let folder = tempfile::tempdir().unwrap();
    Llama::default().folder(folder.path());
    let generation = json!({"eos_token_id": [1, 5], "do_sample": true, "temperature": 0.5, "top_p": 0.9, "top_k": 7});
    hf::write_json(folder.path(), "generation_config.json", &generation);
    let read = Source::open(folder.path()).unwrap().generation().clone();
    assert_eq!((read.bos, read.eos), (Some(0), vec![1, 5]));
    assert_eq!((read.temperature, read.top_p, read.top_k), (Some(0.5), Some(0.9), Some(7)));
    assert_eq!((read.min_p, read.repetition_penalty), (None, None));
    let penalty = json!({"repetition_penalty": 1.5, "min_p": 0.25, "temperature": 0.5});
    hf::write_json(folder.path(), "generation_config.json", &penalty);
    let read = Source::open(folder.path()).unwrap().generation().clone();
    assert_eq!((read.temperature, read.min_p, read.repetition_penalty), (None, None, Some(1.5)), "greedy");
    hf::write_json(folder.path(), "generation_config.json", &json!({"do_sample": true, "min_p": 0.25}));
    assert_eq!(Source::open(folder.path()).unwrap().generation().min_p, Some(0.25));
    hf::write_json(folder.path(), "generation_config.json", &json!({"eos_token_id": "x"}));
    refused(Source::open(folder.path()), false, &["eos_token_id", "\"x\""]);
}

#[test]
fn what_is_not_run_is_refused_by_name() {
    let all = ["mamba2", "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma3_text", "phi3"];
    check(json!({"model_type": "mamba2"}), true, &all);
    check(json!({"vision_config": {}}), true, &["vision"]);
    check(json!({"audio_config": {}}), true, &["audio"]);
    check(json!({"quantization_config": {"quant_method": "gptq"}}), true, &["quantization_config"]);
    check(json!({"hidden_act": "relu2"}), true, &["hidden_act", "relu2"]);
    let folder = tempfile::tempdir().unwrap();
    hf::write_json(folder.path(), "adapter_config.json", &json!({}));
    refused(Source::open(folder.path()), true, &["LoRA"]);
}

#[test]
fn what_is_wrong_is_named() {
    check(json!({"model_type": null}), false, &["model_type", "missing"]);
    check(json!({"hidden_size": "64"}), false, &["hidden_size", "\"64\""]);
    check(json!({"hidden_size": -64}), false, &["hidden_size", "-64"]);
    check(json!({"hidden_size": 1u64 << 60}), false, &["hidden_size"]);
    check(json!({"num_attention_heads": 0}), false, &["heads", "0"]);
    check(json!({"num_key_value_heads": 3}), false, &["kv_heads"]);
    check(json!({"head_dim": 15}), false, &["head_dim", "15"]);
    check(json!({"intermediate_size": 97}), false, &["gate_proj", "[96, 64]", "[97, 64]"]);
    check(json!({"num_hidden_layers": 3}), false, &["model.layers.2.", "missing"]);
    check(json!({"attention_bias": true}), false, &["self_attn.q_proj.bias", "missing"]);
    check(json!({"mlp_bias": true}), false, &["mlp.gate_proj.bias", "missing"]);
    check(json!({"rope_parameters": {"partial_rotary_factor": 1.5}}), false, &["partial_rotary_factor", "1.5"]);
    check(json!({"model_type": "mistral", "layer_types": ["full_attention"]}), false, &["layer_types", "2 kinds"]);
    check(json!({"model_type": "mistral", "sliding_window": 0}), false, &["sliding.window", "0"]);
    check(json!({"num_hidden_layers": 1}), true, &["model.layers.1."]);
    check(json!({"rms_norm_eps": -1.0}), false, &["rms_norm_eps"]);
    let folder = tempfile::tempdir().unwrap();
    refused(Source::open(folder.path()), false, &["config.json", "missing"]);
    std::fs::write(folder.path().join("config.json"), "[1").unwrap();
    refused(Source::open(folder.path()), false, &["config.json", "line 1"]);
}

#[test]
fn files_that_are_missing_are_named() {
    for (file, word) in [("tokenizer.json", "tokenizer.json"), ("model.safetensors", "model.safetensors.index.json")] {
        let folder = tempfile::tempdir().unwrap();
        Llama::default().folder(folder.path());
        std::fs::remove_file(folder.path().join(file)).unwrap();
        refused(Source::open(folder.path()), false, &[word]);
    }
}

#[test]
fn what_no_vocabulary_has_ends_no_generation() {
    let source = open(json!({"eos_token_id": [288, 1], "bos_token_id": 300})).unwrap();
    assert_eq!((source.generation().bos, &source.generation().eos[..]), (None, &[1][..]));
}

#[test]
fn a_tied_head_may_be_written_twice_and_frequencies_are_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let model = Llama::default();
    model.folder(folder.path());
    let values = |n: usize| vec![0; 4 * n];
    let mut tensors: hf::Tensors = model
        .tensors()
        .into_iter()
        .map(|(name, shape, _)| (name, (kernels::Format::F32, shape.clone(), values(shape.iter().product()))))
        .collect();
    let frequencies = (kernels::Format::F32, vec![8], values(8));
    tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), frequencies);
    hf::write_safetensors(&folder.path().join("model.safetensors"), &tensors);
    hf::write_json(folder.path(), "config.json", &Llama { tied: true, ..model }.config());
    assert!(Source::open(folder.path()).unwrap().config().tied_embedding);
}

#[test]
fn a_small_file_without_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    Llama::default().folder(folder.path());
    std::fs::remove_file(folder.path().join("config.json")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", folder.path().join("config.json")).unwrap();
    refused(Source::open(folder.path()), false, &["config.json", "not a file"]);
}

/// Cuts the default model's tensors over files by what `shard` says.
fn sharded(folder: &Path, shard: impl Fn(usize, &str) -> String) {
    let model = Llama::default();
    model.folder(folder);
    let mut shards: std::collections::BTreeMap<String, hf::Tensors> = Default::default();
    let mut map = serde_json::Map::new();
    for (index, (name, shape, values)) in model.tensors().into_iter().enumerate() {
        let file = shard(index, &name);
        let data = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        map.insert(name.clone(), json!(file));
        shards.entry(file).or_default().insert(name, (kernels::Format::F32, shape, data));
    }
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    shards.iter().filter(|(file, _)| !file.contains("..")).for_each(|(file, tensors)| {
        hf::write_safetensors(&folder.join(file), tensors);
    });
    hf::write_json(folder, "model.safetensors.index.json", &json!({"metadata": {}, "weight_map": map}));
}

#[test]
fn shards_are_one_model() {
    let folder = tempfile::tempdir().unwrap();
    sharded(folder.path(), |index, _| format!("model-{}.safetensors", index % 5));
    Source::open(folder.path()).unwrap();
    std::fs::remove_file(folder.path().join("model-3.safetensors")).unwrap();
    let error = Source::open(folder.path()).err().unwrap();
    assert!(matches!(&error, Error::Io(_)) && error.to_string().contains("model-3.safetensors"), "{error}");
}

#[test]
fn no_shard_lies_outside_the_folder() {
    for name in ["../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..\\x.safetensors", ".safetensors", "x"]
    {
        let index = json!({"weight_map": {"a.weight": name}}).to_string();
        let error = import::safetensors_index::parse(index.as_bytes()).unwrap_err().to_string();
        assert!(error.contains("a.weight"), "{error}");
    }
    let folder = tempfile::tempdir().unwrap();
    sharded(
        folder.path(),
        |_, name| if name.contains("norm") { "../x.safetensors".into() } else { "m.safetensors".into() },
    );
    refused(Source::open(folder.path()), false, &["../x.safetensors"]);
}

#[test]
fn a_dtype_that_is_not_read_is_named() {
    let folder = tempfile::tempdir().unwrap();
    Llama::default().folder(folder.path());
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
    let other = header.replace("\"F32\"", "\"I32\"");
    std::fs::write(&path, [&bytes[..8], other.as_bytes(), &bytes[8 + length..]].concat()).unwrap();
    refused(Source::open(folder.path()), true, &["I32", "model.embed_tokens.weight", "BF16"]);
}

#[test]
fn headers_that_lie_are_refused_by_file() {
    let folder = tempfile::tempdir().unwrap();
    Llama::default().folder(folder.path());
    let path = folder.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let huge = r#"{"a":{"dtype":"U8","shape":[18446744073709551615],"data_offsets":[0,18446744073709551615]}}"#;
    let huge = [&(huge.len() as u64).to_le_bytes()[..], huge.as_bytes()].concat();
    let absurd = [&u64::MAX.to_le_bytes()[..], &bytes[8..]].concat();
    for wrong in [&bytes[..5], &bytes[..bytes.len() - 1], &bytes[..100], &huge, &absurd, b""] {
        std::fs::write(&path, wrong).unwrap();
        refused(Source::open(folder.path()), false, &["model.safetensors", "byte"]);
    }
}

proptest! {
    #[test]
    fn an_index_of_garbage_is_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "\\PC{0,60}") {
        prop_assert!(import::safetensors_index::parse(&bytes).is_err());
        let named = json!({"weight_map": {text.clone(): text}}).to_string();
        let _ = import::safetensors_index::parse(named.as_bytes());
    }

    #[test]
    fn a_header_with_wrong_bytes_is_no_panic(changes in prop::collection::vec((0usize..2000, any::<u8>()), 1..5)) {
        let folder = tempfile::tempdir().unwrap();
        Llama::default().folder(folder.path());
        let path = folder.path().join("model.safetensors");
        let mut bytes = std::fs::read(&path).unwrap();
        changes.into_iter().for_each(|(at, byte)| bytes[at] = byte);
        std::fs::write(&path, bytes).unwrap();
        let _ = Source::open(folder.path());
    }
}
