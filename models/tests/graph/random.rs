//! Random models of any shape, sealed and restored by the real parts.

use crate::naive::Tensors;
use kernels::Format;
use models::{Model, ModelConfig, Rope, RopeScaling, Variant};
use snapshot::{SealPlan, SectionKind, Snapshot, TensorPlan};
use std::path::Path;
use std::sync::Arc;

/// Shapes that no power of two divides: one KV head for five, a head wider than `hidden / heads`, an untied head.
pub fn odd_config() -> ModelConfig {
    ModelConfig {
        architecture: "llama".into(),
        vocab_size: 131,
        hidden_size: 44,
        intermediate_size: 92,
        layers: 3,
        heads: 5,
        kv_heads: 1,
        head_dim: 20,
        rms_norm_eps: 1e-5,
        rope: Rope { theta: 10_000.0, scaling: RopeScaling::None },
        context_length: 256,
        tied_embedding: false,
        variant: Variant::default(),
    }
}

/// Names and shapes of all tensors, in order of first use.
pub fn shapes(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let ModelConfig { vocab_size, hidden_size, intermediate_size, heads, kv_heads, head_dim, .. } = *config;
    let mut shapes = vec![("model.embed_tokens.weight".to_owned(), vec![vocab_size, hidden_size])];
    for layer in 0..config.layers {
        let parts = [
            ("input_layernorm", vec![hidden_size]),
            ("self_attn.q_proj", vec![heads * head_dim, hidden_size]),
            ("self_attn.k_proj", vec![kv_heads * head_dim, hidden_size]),
            ("self_attn.v_proj", vec![kv_heads * head_dim, hidden_size]),
            ("self_attn.o_proj", vec![hidden_size, heads * head_dim]),
            ("post_attention_layernorm", vec![hidden_size]),
            ("mlp.gate_proj", vec![intermediate_size, hidden_size]),
            ("mlp.up_proj", vec![intermediate_size, hidden_size]),
            ("mlp.down_proj", vec![hidden_size, intermediate_size]),
        ];
        shapes.extend(parts.map(|(part, shape)| (format!("model.layers.{layer}.{part}.weight"), shape)));
    }
    shapes.push(("model.norm.weight".to_owned(), vec![hidden_size]));
    if !config.tied_embedding {
        shapes.push(("lm_head.weight".to_owned(), vec![vocab_size, hidden_size]));
    }
    shapes
}

/// Random weights large enough that every part of the model moves the logits.
pub fn tensors(config: &ModelConfig, seed: u64) -> Tensors {
    let mut random = Random(seed);
    let mut values = |(name, shape): (String, Vec<usize>)| {
        let (offset, scale) = match shape[..] {
            [_] => (1.0, 0.5),
            _ => (0.0, 2.5 / (shape[1] as f32).sqrt()),
        };
        let count = shape.iter().product();
        (name, (0..count).map(|_| offset + scale * random.next()).collect())
    };
    shapes(config).into_iter().map(&mut values).collect()
}

/// Seals `tensors`, shaped by `config` (matrices in `format`, vectors in float32), with the configuration `said`.
pub fn seal_as(
    folder: &Path,
    config: &ModelConfig,
    said: &ModelConfig,
    tensors: &Tensors,
    format: Format,
) -> Arc<Snapshot> {
    let shapes: Vec<_> = shapes(config).into_iter().filter(|(name, _)| tensors.contains_key(name)).collect();
    let bytes: Vec<Vec<u8>> = shapes.iter().map(|(name, shape)| encode(&tensors[name], shape, format)).collect();
    let plan = |((name, shape), bytes): (&(String, Vec<usize>), &Vec<u8>)| TensorPlan {
        name: name.clone(),
        dtype: format_of(shape, format).name().into(),
        layout: "row-major".into(),
        shape: shape.iter().map(|&d| d as u64).collect(),
        bytes: bytes.len() as u64,
    };
    let plan = SealPlan {
        model: "random".into(),
        target: "portable".into(),
        weights: if format == Format::F32 { "f32" } else { "native" }.into(),
        tensors: shapes.iter().zip(&bytes).map(plan).collect(),
        sections: vec![(SectionKind::Config, serde_json::to_vec(said).unwrap())],
        encrypt: None,
    };
    let out = folder.join("random.snapshot");
    snapshot::seal(&out, plan, &mut |i, w| w.write_all(&bytes[i]), &mut |_, _| {}).unwrap();
    Snapshot::open(&out).unwrap()
}

/// A random model, ready to compute.
pub fn model(config: &ModelConfig, tensors: &Tensors, format: Format) -> Model {
    let folder = tempfile::tempdir().unwrap();
    Model::restore(&seal_as(folder.path(), config, config, tensors, format)).unwrap()
}

/// What `format` keeps of `tensors`: the weights the model really has.
pub fn rounded(config: &ModelConfig, tensors: &Tensors, format: Format) -> Tensors {
    let round = |(name, shape): (String, Vec<usize>)| {
        let bytes = encode(&tensors[&name], &shape, format);
        let mut values = tensors[&name].clone();
        let (k, format) = (shape[shape.len() - 1], format_of(&shape, format));
        let row_bytes = format.row_bytes(k).unwrap();
        for (row, out) in bytes.chunks(row_bytes).zip(values.chunks_mut(k)) {
            format.dequantize_row(row, out);
        }
        (name, values)
    };
    shapes(config).into_iter().map(round).collect()
}

/// Token ids below the vocabulary's size.
pub fn ids(config: &ModelConfig, count: usize, seed: u64) -> Vec<u32> {
    let mut random = Random(seed);
    (0..count).map(|_| random.bits() as u32 % config.vocab_size as u32).collect()
}

fn format_of(shape: &[usize], format: Format) -> Format {
    if shape.len() == 1 { Format::F32 } else { format }
}

fn encode(values: &[f32], shape: &[usize], format: Format) -> Vec<u8> {
    let (k, format) = (shape[shape.len() - 1], format_of(shape, format));
    let row_bytes = format.row_bytes(k).unwrap();
    let mut bytes = vec![0; values.len() / k * row_bytes];
    for (row, out) in values.chunks(k).zip(bytes.chunks_mut(row_bytes)) {
        format.quantize_row(row, out);
    }
    bytes
}

/// SplitMix64 (Steele, Lea & Flood 2014).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `-1..1`.
    fn next(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
