//! Which tensors a model of a given shape has: canonical names (Llama's in Hugging Face), in order of first use.

use crate::{
    ModelConfig,
    config::{EncoderConfig, Experts},
};

/// One tensor a graph needs. `[n]` or `[rows, columns]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    pub name: String,
    pub shape: Vec<usize>,
    /// What the importer and the sealer have to know of it.
    pub role: Role,
}

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The embedding or the head: one row for each token.
    Vocabulary,
    /// A norm's weights or a bias: kept as float32 whatever is asked for.
    Vector,
    /// Rows (or elements, of a bias) are rotated in this many heads, so their order depends on the layout of the rotation.
    Rotated {
        /// Heads that the rows are divided into.
        heads: usize,
    },
    /// Chooses experts: small, and never quantised.
    Router,
    /// Any other matrix of a layer.
    Matrix,
}

/// The embedding's name.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
/// The head's name, where it is not the embedding.
pub(crate) const HEAD: &str = "lm_head.weight";
/// The last norm's name.
pub(crate) const NORM: &str = "model.norm.weight";

/// All tensors of a model, in order of first use.
pub(crate) fn tensors(c: &ModelConfig) -> Vec<Expected> {
    let mut all = Vec::new();
    if let Some(encoder) = &c.variant.encoder {
        push_encoder(c, encoder, &mut all);
        return all;
    }
    push(&mut all, EMBEDDING, &[c.vocab_size, c.hidden_size], Role::Vocabulary);
    for layer in 0..c.layers {
        Layer { config: c, prefix: format!("model.layers.{layer}."), all: &mut all }.push_all(c.experts_of(layer));
    }
    push(&mut all, NORM, &[c.hidden_size], Role::Vector);
    if !c.tied_embedding {
        push(&mut all, HEAD, &[c.vocab_size, c.hidden_size], Role::Vocabulary);
    }
    all
}

/// BERT's own names.
fn push_encoder(c: &ModelConfig, encoder: &EncoderConfig, all: &mut Vec<Expected>) {
    let (hidden, inner) = (c.hidden_size, c.intermediate_size);
    for (name, rows) in [("word", c.vocab_size), ("position", encoder.positions), ("token_type", encoder.token_types)] {
        push(all, &format!("embeddings.{name}_embeddings.weight"), &[rows, hidden], Role::Vocabulary);
    }
    let pair = |all: &mut Vec<Expected>, at: &str, shape: &[usize]| {
        push(all, &format!("{at}.weight"), shape, if shape.len() == 1 { Role::Vector } else { Role::Matrix });
        push(all, &format!("{at}.bias"), &shape[..1], Role::Vector);
    };
    pair(all, "embeddings.LayerNorm", &[hidden]);
    for layer in 0..c.layers {
        for (part, shape) in [
            ("attention.self.query", &[hidden, hidden][..]),
            ("attention.self.key", &[hidden, hidden]),
            ("attention.self.value", &[hidden, hidden]),
            ("attention.output.dense", &[hidden, hidden]),
            ("attention.output.LayerNorm", &[hidden]),
            ("intermediate.dense", &[inner, hidden]),
            ("output.dense", &[hidden, inner]),
            ("output.LayerNorm", &[hidden]),
        ] {
            pair(all, &format!("encoder.layer.{layer}.{part}"), shape);
        }
    }
}

fn push(all: &mut Vec<Expected>, name: &str, shape: &[usize], role: Role) {
    all.push(Expected { name: name.to_owned(), shape: shape.to_vec(), role });
}

/// Collects one layer's tensors.
struct Layer<'a> {
    config: &'a ModelConfig,
    prefix: String,
    all: &'a mut Vec<Expected>,
}

impl Layer<'_> {
    fn push_all(mut self, experts: Option<&Experts>) {
        self.attention();
        self.norm("post_attention_layernorm", self.config.hidden_size);
        match experts {
            Some(experts) => self.experts(experts),
            None => self.mlp("mlp", self.config.intermediate_size, self.config.variant.biases.mlp),
        }
        if self.config.variant.output_norms {
            self.norm("mlp_out_norm", self.config.hidden_size);
        }
    }

    fn attention(&mut self) {
        let c = self.config;
        let (hidden, variant) = (c.hidden_size, &c.variant);
        let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
        let qkv = variant.biases.qkv;
        self.norm("input_layernorm", hidden);
        self.linear("self_attn.q_proj", [q, hidden], Role::Rotated { heads: c.heads }, qkv);
        self.linear("self_attn.k_proj", [kv, hidden], Role::Rotated { heads: c.kv_heads }, qkv);
        self.linear("self_attn.v_proj", [kv, hidden], Role::Matrix, qkv);
        if variant.qk_norm {
            self.norm("self_attn.q_norm", c.head_dim);
            self.norm("self_attn.k_norm", c.head_dim);
        }
        self.linear("self_attn.o_proj", [hidden, q], Role::Matrix, variant.biases.output);
        if variant.output_norms {
            self.norm("attention_out_norm", hidden);
        }
    }

    fn experts(&mut self, experts: &Experts) {
        self.linear("mlp.gate", [experts.count, self.config.hidden_size], Role::Router, false);
        for expert in 0..experts.count {
            self.mlp(&format!("mlp.experts.{expert}"), experts.width, false);
        }
    }

    fn mlp(&mut self, at: &str, inner: usize, bias: bool) {
        let hidden = self.config.hidden_size;
        self.linear(&format!("{at}.gate_proj"), [inner, hidden], Role::Matrix, bias);
        self.linear(&format!("{at}.up_proj"), [inner, hidden], Role::Matrix, bias);
        self.linear(&format!("{at}.down_proj"), [hidden, inner], Role::Matrix, bias);
    }

    fn norm(&mut self, part: &str, n: usize) {
        push(self.all, &format!("{}{part}.weight", self.prefix), &[n], Role::Vector);
    }

    fn linear(&mut self, part: &str, shape: [usize; 2], role: Role, bias: bool) {
        push(self.all, &format!("{}{part}.weight", self.prefix), &shape, role);
        if bias {
            let role = if matches!(role, Role::Rotated { .. }) { role } else { Role::Vector };
            push(self.all, &format!("{}{part}.bias", self.prefix), &shape[..1], role);
        }
    }
}
