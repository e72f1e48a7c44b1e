//! The table of architectures. A new one is one file beside this and one line in [`TABLE`].
//!
//! An architecture is how its makers write down what [`ModelConfig`] says: which keys of their configuration mean what, and
//! under which names its tensors are published. All share one graph. **Absent:** any computation.

mod bert;
mod gemma3;
mod llama;
mod mistral;
mod mixtral;
mod phi3;
mod qwen2;
mod qwen3;
mod qwen3_moe;

use crate::config::Activation;
use crate::import::{gguf::Gguf, hf::Fields, tensor::Place};
use crate::{Error, ModelConfig};

/// What the importers have to know of one kind of model.
pub(crate) struct Architecture {
    /// For people, and in snapshots.
    pub name: &'static str,
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// `model_type` of models that see, too, and have this one for text under `text_config`; empty where there are none.
    pub text_of: &'static str,
    /// `general.architecture` in GGUF; empty where llama.cpp has it under another's name.
    pub gguf: &'static str,
    /// What its makers leave out of `config.json`.
    pub defaults: Defaults,
    /// Reads what differs from a plain Llama out of `config.json`.
    pub read_config: fn(&Fields, &mut ModelConfig) -> Result<(), Error>,
    /// Reads the same out of GGUF metadata; biases and norms are seen by the tensors and are filled in before.
    pub read_gguf: fn(&Gguf, &mut ModelConfig) -> Result<(), Error>,
    /// A published tensor's usual name, where some folders have another; `None` for what no graph needs.
    pub published: fn(&str) -> Option<String>,
    /// Where a Hugging Face folder has the canonical tensor.
    pub place: fn(&ModelConfig, &str) -> Place,
    /// Where a GGUF file has it, where that is not llama.cpp's usual name.
    pub gguf_place: fn(&ModelConfig, &str) -> Option<Place>,
    /// llama.cpp's converter puts the two rows of a rotated pair side by side.
    pub gguf_interleaved: bool,
}

/// Values of absent keys in `config.json`.
pub(crate) struct Defaults {
    pub tied_embedding: bool,
    pub epsilon: f64,
    pub theta: f64,
    /// `None`: `hidden_size / heads`.
    pub head_dim: Option<usize>,
    /// `None`: the key is needed.
    pub heads: Option<usize>,
    /// `None`: as many as there are heads.
    pub kv_heads: Option<usize>,
    /// `None`: the key is needed.
    pub vocab_size: Option<usize>,
    pub context_length: usize,
    pub activation: Activation,
}

/// Values of absent keys for most.
const DEFAULTS: Defaults = Defaults {
    tied_embedding: false,
    epsilon: 1e-6,
    theta: 10_000.0,
    head_dim: None,
    heads: None,
    kv_heads: None,
    vocab_size: None,
    context_length: 2048,
    activation: Activation::Silu,
};

impl Architecture {
    /// A plain Llama under its usual names: the base of the table's entries.
    const BASE: Self = Self {
        name: "",
        model_type: "",
        gguf: "",
        text_of: "",
        defaults: DEFAULTS,
        read_config: |_, _| Ok(()),
        read_gguf: |_, _| Ok(()),
        // Old versions stored the rotation's frequencies, which follow from the configuration; scales of activations are
        // of use to 8-bit arithmetic alone.
        published: |name| {
            let left_out = name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".input_scale");
            (!left_out).then(|| name.to_owned())
        },
        place: |_, canonical| Place::whole(canonical),
        gguf_place: |_, _| None,
        gguf_interleaved: false,
    };

    /// The architecture of a `config.json`'s `model_type`.
    pub fn by_model_type(name: &str) -> Result<&'static Self, Error> {
        TABLE.iter().find(|entry| entry.model_type == name).ok_or_else(|| unsupported("model_type", name))
    }

    /// The architecture of the text part of models of this `model_type`, if it is one that runs.
    pub fn text_of(name: &str) -> Option<&'static Self> {
        TABLE.iter().find(|entry| !name.is_empty() && entry.text_of == name)
    }

    /// The architecture of a GGUF's `general.architecture`.
    pub fn by_gguf(name: &str) -> Result<&'static Self, Error> {
        let found = TABLE.iter().find(|entry| !name.is_empty() && entry.gguf == name);
        found.ok_or_else(|| {
            let known: Vec<_> = TABLE.iter().map(|entry| entry.gguf).filter(|name| !name.is_empty()).collect();
            Error::Unsupported(format!("architecture `{name}`; this version runs from GGUF: {}", known.join(", ")))
        })
    }
}

/// Every architecture that runs.
const TABLE: &[Architecture] = &[
    llama::LLAMA,
    mistral::MISTRAL,
    mixtral::MIXTRAL,
    qwen2::QWEN2,
    qwen3::QWEN3,
    qwen3_moe::QWEN3_MOE,
    gemma3::GEMMA3,
    phi3::PHI3,
    bert::BERT,
    bert::ROBERTA,
    bert::XLM_ROBERTA,
];

/// Their names, for messages.
pub(crate) fn supported() -> String {
    TABLE.iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ")
}

fn unsupported(key: &str, found: &str) -> Error {
    Error::Unsupported(format!("{key} `{found}`; this version runs: {}", supported()))
}
