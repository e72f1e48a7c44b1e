//! A random Llama of any shape, as a `.gguf` or as a Hugging Face folder: the same weights either way.

use super::gguf::{self, Value};
use kernels::Format;
use serde_json::json;
use std::{collections::BTreeMap, path::Path};

/// The shape of a Llama.
#[derive(Clone, Debug)]
pub struct Llama {
    pub vocab: usize,
    pub hidden: usize,
    pub inner: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub tied: bool,
    /// Of matrices; norms are float32.
    pub format: Format,
    pub seed: u64,
}

impl Default for Llama {
    fn default() -> Self {
        Self {
            vocab: 288,
            hidden: 64,
            inner: 96,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            tied: false,
            format: Format::F32,
            seed: 1,
        }
    }
}

impl Llama {
    /// Canonical name, shape, and values of every tensor.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>, Vec<f32>)> {
        let (q, kv) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let mut names = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocab, self.hidden])];
        for layer in 0..self.layers {
            let mut push = |name: &str, shape: &[usize]| {
                names.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
            };
            push("input_layernorm", &[self.hidden]);
            push("self_attn.q_proj", &[q, self.hidden]);
            push("self_attn.k_proj", &[kv, self.hidden]);
            push("self_attn.v_proj", &[kv, self.hidden]);
            push("self_attn.o_proj", &[self.hidden, q]);
            push("post_attention_layernorm", &[self.hidden]);
            push("mlp.gate_proj", &[self.inner, self.hidden]);
            push("mlp.up_proj", &[self.inner, self.hidden]);
            push("mlp.down_proj", &[self.hidden, self.inner]);
        }
        names.push(("model.norm.weight".into(), vec![self.hidden]));
        if !self.tied {
            names.push(("lm_head.weight".into(), vec![self.vocab, self.hidden]));
        }
        let mut random = Random(self.seed);
        names
            .into_iter()
            .map(|(name, shape)| {
                let spread = 1.0 / (shape.last().copied().unwrap_or(1) as f32).sqrt();
                let centre = if shape.len() == 1 { 1.0 } else { 0.0 };
                let values = (0..shape.iter().product()).map(|_| centre + spread * random.next()).collect();
                (name, shape, values)
            })
            .collect()
    }

    /// As llama.cpp's converter writes it, rows of queries and keys interleaved.
    pub fn gguf(&self) -> gguf::Writer {
        let mut file = gguf::Writer::default();
        file.set("general.architecture", Value::Text("llama".into()));
        for (key, n) in [
            ("block_count", self.layers),
            ("context_length", 256),
            ("embedding_length", self.hidden),
            ("feed_forward_length", self.inner),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("attention.key_length", self.head_dim),
            ("attention.value_length", self.head_dim),
            ("rope.dimension_count", self.head_dim),
            ("vocab_size", self.vocab),
        ] {
            file.set(&format!("llama.{key}"), Value::U32(n as u32));
        }
        file.set("llama.rope.freq_base", Value::F32(10_000.0));
        file.set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
        byte_vocabulary(&mut file, self.vocab);
        for (name, shape, values) in self.tensors() {
            let heads = match &name {
                name if name.ends_with("q_proj.weight") => Some(self.heads),
                name if name.ends_with("k_proj.weight") => Some(self.kv_heads),
                _ => None,
            };
            let format = if shape.len() == 1 { Format::F32 } else { self.format };
            let values = heads.map_or_else(|| values.clone(), |heads| interleave(&values, shape[0] / heads, shape[1]));
            let extents: Vec<u64> = shape.iter().rev().map(|&n| n as u64).collect();
            file.tensor(
                &gguf_name(&name),
                &extents,
                gguf_kind(format),
                encode(format, &values, shape[shape.len() - 1]),
            );
        }
        file
    }

    /// A Hugging Face folder with one safetensors file and a tokenizer of single bytes.
    pub fn folder(&self, folder: &Path) {
        std::fs::create_dir_all(folder).unwrap();
        super::huggingface::write_json(folder, "config.json", &self.config());
        let tensors: BTreeMap<String, (Format, Vec<usize>, Vec<u8>)> = self
            .tensors()
            .into_iter()
            .map(|(name, shape, values)| {
                let data = encode(self.format, &values, shape[shape.len() - 1]);
                (name, (self.format, shape, data))
            })
            .collect();
        super::huggingface::write_safetensors(&folder.join("model.safetensors"), &tensors);
        super::huggingface::write_json(folder, "tokenizer.json", &super::huggingface::byte_tokenizer(self.vocab));
    }

    /// Its `config.json`, as transformers 5 writes it.
    pub fn config(&self) -> serde_json::Value {
        json!({
            "model_type": "llama", "vocab_size": self.vocab, "hidden_size": self.hidden,
            "intermediate_size": self.inner, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads, "head_dim": self.head_dim,
            "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "hidden_act": "silu",
            "tie_word_embeddings": self.tied, "bos_token_id": 0, "eos_token_id": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        })
    }
}

/// The byte-level vocabulary: two control tokens, 256 bytes, and fillers up to `size`.
pub fn byte_tokens(size: usize) -> Vec<String> {
    let mut substitutes = (0x100..).filter_map(char::from_u32);
    let bytes = (0..=255u8).map(|byte| match byte {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte).to_string(),
        _ => substitutes.next().unwrap().to_string(),
    });
    let mut tokens: Vec<String> = ["<s>".to_owned(), "</s>".to_owned()].into_iter().chain(bytes).collect();
    tokens.extend((tokens.len()..size).map(|id| format!("[PAD{id}]")));
    tokens.truncate(size);
    tokens
}

fn byte_vocabulary(file: &mut gguf::Writer, size: usize) {
    let tokens = byte_tokens(size);
    let kind = |id: usize| if id < 2 { 3 } else { 1 };
    file.set("tokenizer.ggml.model", Value::Text("gpt2".into()));
    file.set("tokenizer.ggml.pre", Value::Text("gpt-2".into()));
    file.set("tokenizer.ggml.token_type", Value::I32s((0..tokens.len()).map(kind).collect()));
    file.set("tokenizer.ggml.tokens", Value::Texts(tokens));
    file.set("tokenizer.ggml.merges", Value::Texts(Vec::new()));
    file.set("tokenizer.ggml.bos_token_id", Value::U32(0));
    file.set("tokenizer.ggml.eos_token_id", Value::U32(1));
}

/// What llama.cpp's converter does to the rows of a head: pairs of the rotation side by side.
fn interleave(values: &[f32], head_dim: usize, columns: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(values.len());
    for head in values.chunks(head_dim * columns) {
        for pair in 0..head_dim / 2 {
            for half in 0..2 {
                out.extend(&head[(half * head_dim / 2 + pair) * columns..][..columns]);
            }
        }
    }
    out
}

fn encode(format: Format, values: &[f32], columns: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut row = vec![0; format.row_bytes(columns).unwrap()];
    for values in values.chunks(columns) {
        format.quantize_row(values, &mut row);
        out.extend(&row);
    }
    out
}

fn gguf_kind(format: Format) -> u32 {
    match format {
        Format::F32 => gguf::F32,
        Format::F16 => gguf::F16,
        Format::BF16 => gguf::BF16,
        Format::Q8_0 => gguf::Q8_0,
        Format::Q4_0 => gguf::Q4_0,
        Format::Q4_1 => gguf::Q4_1,
        other => unreachable!("{other:?} is not written by tests"),
    }
}

fn gguf_name(name: &str) -> String {
    let pairs = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    pairs.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// Numbers from -1 to 1, the same for the same seed (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        (z >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}
