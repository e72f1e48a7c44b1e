//! Which tensors a model of a given shape has: canonical (Hugging Face) names, in order of first use.

use crate::{Architecture, ModelConfig};

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
    /// A norm's weights: kept as float32 whatever is asked for.
    Norm,
    /// Rows are rotated in this many heads, so their order depends on the layout of the rotation.
    Rotated {
        /// Heads that the rows are divided into.
        heads: usize,
    },
    /// Any other matrix of a layer.
    Matrix,
}

/// The embedding's name.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
/// The head's name, where it is not the embedding.
pub(crate) const HEAD: &str = "lm_head.weight";

/// All tensors of a model, in order of first use.
pub(crate) fn tensors(config: &ModelConfig) -> Vec<Expected> {
    match config.architecture {
        Architecture::Llama => llama(config),
    }
}

fn llama(c: &ModelConfig) -> Vec<Expected> {
    let mut all = vec![expected(EMBEDDING.into(), &[c.vocab_size, c.hidden_size], Role::Vocabulary)];
    for layer in 0..c.layers {
        llama_layer(c, &format!("model.layers.{layer}."), &mut all);
    }
    all.push(expected("model.norm.weight".into(), &[c.hidden_size], Role::Norm));
    if !c.tied_embedding {
        all.push(expected(HEAD.into(), &[c.vocab_size, c.hidden_size], Role::Vocabulary));
    }
    all
}

fn llama_layer(c: &ModelConfig, prefix: &str, all: &mut Vec<Expected>) {
    let (hidden, inner) = (c.hidden_size, c.intermediate_size);
    let (q, kv) = (c.heads * c.head_dim, c.kv_heads * c.head_dim);
    let mut push =
        |name: &str, shape: &[usize], role| all.push(expected(format!("{prefix}{name}.weight"), shape, role));
    push("input_layernorm", &[hidden], Role::Norm);
    push("self_attn.q_proj", &[q, hidden], Role::Rotated { heads: c.heads });
    push("self_attn.k_proj", &[kv, hidden], Role::Rotated { heads: c.kv_heads });
    push("self_attn.v_proj", &[kv, hidden], Role::Matrix);
    push("self_attn.o_proj", &[hidden, q], Role::Matrix);
    push("post_attention_layernorm", &[hidden], Role::Norm);
    push("mlp.gate_proj", &[inner, hidden], Role::Matrix);
    push("mlp.up_proj", &[inner, hidden], Role::Matrix);
    push("mlp.down_proj", &[hidden, inner], Role::Matrix);
}

fn expected(name: String, shape: &[usize], role: Role) -> Expected {
    Expected { name, shape: shape.to_vec(), role }
}
