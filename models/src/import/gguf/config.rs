//! GGUF metadata → [`ModelConfig`] and [`Generation`].

use super::{Gguf, Value};
use crate::architectures::Architecture;
use crate::config::{Biases, Experts, Sliding, Variant};
use crate::import::hf::{YARN_FAST, YARN_SLOW, attention_factor, yarn_factor};
use crate::{Error, Generation, ModelConfig, Rope, RopeScaling};

const CONTEXT_DEFAULT: usize = 2048;
const THETA_DEFAULT: f64 = 10_000.0;
const EPSILON_DEFAULT: f64 = 1e-5;
/// Tokens that end a turn or a text in the families' chat templates.
const ENDS_OF_TURNS: [&str; 8] =
    ["<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|end_of_text|>", "<EOT>"];

impl Gguf {
    pub(super) fn architecture(&self) -> Result<&'static Architecture, Error> {
        let missing = || Error::BadModel("GGUF: general.architecture is missing".into());
        Architecture::by_gguf(self.name()?.ok_or_else(missing)?)
    }

    /// The architecture's word, which is also the first part of its keys.
    fn name(&self) -> Result<Option<&str>, Error> {
        self.string("general.architecture")
    }

    fn key(&self, word: &str) -> Result<String, Error> {
        Ok(format!("{}.{word}", self.name()?.unwrap_or_default()))
    }

    /// Shape of the model; frequency factors come from a tensor and are the caller's.
    pub(super) fn config(&self, architecture: &Architecture) -> Result<ModelConfig, Error> {
        self.refuse_variants()?;
        let hidden_size = self.needed("embedding_length")?;
        let heads = self.needed("attention.head_count")?;
        let head_dim = match self.size("attention.key_length")? {
            Some(n) => n,
            None if heads > 0 => hidden_size / heads,
            None => return Err(bad(&self.key("attention.head_count")?, "is 0")),
        };
        let mut config = ModelConfig {
            architecture: architecture.name.to_owned(),
            vocab_size: self.vocab_size()?,
            hidden_size,
            intermediate_size: self.needed("feed_forward_length")?,
            layers: self.needed("block_count")?,
            heads,
            kv_heads: self.size("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            rms_norm_eps: self.number("attention.layer_norm_rms_epsilon")?.unwrap_or(EPSILON_DEFAULT),
            rope: self.rope()?,
            context_length: self.size("context_length")?.unwrap_or(CONTEXT_DEFAULT),
            tied_embedding: !self.has("output.weight"),
            variant: Variant {
                biases: Biases {
                    qkv: self.has("blk.0.attn_q.bias") || self.has("blk.0.attn_qkv.bias"),
                    output: self.has("blk.0.attn_output.bias"),
                    mlp: self.has("blk.0.ffn_down.bias"),
                },
                qk_norm: self.has("blk.0.attn_q_norm.weight"),
                rotary_dim: self.size("rope.dimension_count")?.filter(|&n| n != head_dim),
                ..Variant::default()
            },
        };
        // Before an architecture allocates anything by these numbers.
        config.check("GGUF")?;
        (architecture.read_gguf)(self, &mut config)?;
        config.check("GGUF")?;
        Ok(config)
    }

    /// Every layer with the window that the metadata names, if any.
    pub(crate) fn sliding(&self, layers: usize) -> Result<Option<Sliding>, Error> {
        let window = self.size("attention.sliding_window")?.filter(|&window| window > 0);
        Ok(window.map(|window| Sliding { window, layers: vec![true; layers], rope: None }))
    }

    /// A mixture of experts in every layer, where the metadata has one. llama.cpp scales the weights of those used to 1.
    pub(crate) fn experts(&self, width: usize) -> Result<Option<Experts>, Error> {
        let Some(count) = self.size("expert_count")?.filter(|&count| count > 0) else { return Ok(None) };
        if !self.has("blk.0.ffn_gate_exps.weight") {
            let what =
                "GGUF: experts in tensors of their own, as llama.cpp wrote them before 2024; convert the model again";
            return Err(Error::Unsupported(what.into()));
        }
        Ok(Some(Experts {
            count,
            used: self.needed("expert_used_count")?,
            width: self.size("expert_feed_forward_length")?.unwrap_or(width),
            renormalise: true,
            dense_layers: Vec::new(),
        }))
    }

    fn has(&self, tensor: &str) -> bool {
        self.tensors.iter().any(|info| info.name == tensor)
    }

    /// Variants that carry the same architecture's name but another graph.
    fn refuse_variants(&self) -> Result<(), Error> {
        let unsupported = |what: String| Err(Error::Unsupported(format!("GGUF: {what}")));
        if self.string("general.type")?.is_some_and(|kind| kind != "model") {
            return unsupported("general.type: an adapter (LoRA) or projector, not a model".into());
        }
        let key_length = self.size("attention.key_length")?;
        if self.size("attention.value_length")?.is_some_and(|length| key_length.is_some_and(|key| key != length)) {
            return unsupported(format!("{} differs from key_length", self.key("attention.value_length")?));
        }
        Ok(())
    }

    fn vocab_size(&self) -> Result<usize, Error> {
        // The embedding itself says; the key may be absent, and a padded embedding is the truth that runs.
        let embedding = self.tensors.iter().find(|tensor| tensor.name == "token_embd.weight");
        match embedding {
            Some(tensor) => Ok(tensor.shape[0]),
            None => Err(Error::BadModel("GGUF: tensor token_embd.weight is missing".into())),
        }
    }

    fn rope(&self) -> Result<Rope, Error> {
        let theta = self.number("rope.freq_base")?.unwrap_or(THETA_DEFAULT);
        let factor = match self.number("rope.scaling.factor")? {
            None => self.number("rope.scale_linear")?,
            factor => factor,
        };
        let scaling = match (self.string(&self.key("rope.scaling.type")?)?, factor) {
            (None | Some("linear"), Some(factor)) if factor != 1.0 && factor != 0.0 => RopeScaling::Linear { factor },
            (Some("yarn"), Some(factor)) if factor > 0.0 => self.yarn(factor)?,
            (Some("yarn"), _) => return Err(bad(&self.key("rope.scaling.factor")?, "is missing or 0 beside yarn")),
            // LongRoPE's factors are tensors, which say by themselves that they are there.
            (None | Some("none" | "linear" | "longrope"), _) => RopeScaling::None,
            (Some(other), _) => {
                let runs = "this version runs none, linear, yarn, longrope and llama3 (frequency factors)";
                let key = self.key("rope.scaling.type")?;
                return Err(Error::Unsupported(format!("GGUF: {key} `{other}`; {runs}")));
            }
        };
        Ok(Rope { theta, scaling })
    }

    fn yarn(&self, factor: f64) -> Result<RopeScaling, Error> {
        let original = match self.size("rope.scaling.original_context_length")? {
            Some(original) => original,
            None => self.size("context_length")?.unwrap_or(CONTEXT_DEFAULT),
        };
        Ok(RopeScaling::Yarn {
            factor,
            original_context: original,
            beta_fast: self.number("rope.scaling.yarn_beta_fast")?.unwrap_or(YARN_FAST),
            beta_slow: self.number("rope.scaling.yarn_beta_slow")?.unwrap_or(YARN_SLOW),
            truncate: true,
            attention_factor: self.number("rope.scaling.yarn_attn_factor")?.unwrap_or_else(|| yarn_factor(factor, 1.0)),
        })
    }

    /// What LongRoPE needs beside its factors: the original context, and the factor of sines and cosines.
    pub(super) fn long_rope(&self, context_length: usize) -> Result<(usize, f64), Error> {
        let original = self.size("rope.scaling.original_context_length")?.unwrap_or(context_length);
        let factor = match self.number("rope.scaling.attn_factor")? {
            Some(factor) => factor,
            None if original > 0 => attention_factor(context_length as f64 / original as f64, original),
            None => return Err(bad(&self.key("rope.scaling.original_context_length")?, "is 0")),
        };
        Ok((original, factor))
    }

    pub(super) fn generation(&self) -> Result<Generation, Error> {
        let mut eos = Vec::new();
        for key in ["eos", "eot", "eom"] {
            eos.extend(self.token(key)?.filter(|id| !eos.contains(id)));
        }
        // The metadata name the end of a text; that of a turn is often known by its spelling alone.
        for id in super::tokenizer::special_ids(self, &ENDS_OF_TURNS) {
            if !eos.contains(&id) {
                eos.push(id);
            }
        }
        Ok(Generation { bos: self.token("bos")?, eos, ..Generation::default() })
    }

    /// The id of a special token by its word in `tokenizer.ggml.<word>_token_id`.
    pub(super) fn token(&self, word: &str) -> Result<Option<u32>, Error> {
        let key = format!("tokenizer.ggml.{word}_token_id");
        let Some(value) = self.metadata.get(&key) else { return Ok(None) };
        // Some converters write -1 or its unsigned twin for "none".
        if matches!(value, Value::Signed(-1)) || value.as_u64() == Some(u64::from(u32::MAX)) {
            return Ok(None);
        }
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.map(Some).ok_or_else(|| bad(&key, format!("{value:?} is no token id")))
    }

    pub(super) fn string(&self, key: &str) -> Result<Option<&str>, Error> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| bad(key, "is no string"))
    }

    pub(super) fn boolean(&self, key: &str) -> Result<Option<bool>, Error> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| bad(key, "is no boolean"))
    }

    /// The number its writer meant: see [`shortest`].
    pub(crate) fn number(&self, word: &str) -> Result<Option<f64>, Error> {
        let key = self.key(word)?;
        let Some(value) = self.metadata.get(&key) else { return Ok(None) };
        value.as_f64().map(|x| Some(shortest(x))).ok_or_else(|| bad(&key, "is no number"))
    }

    /// A whole number; an array (one for each layer) only where all its elements are the same.
    pub(crate) fn size(&self, word: &str) -> Result<Option<usize>, Error> {
        let key = self.key(word)?;
        let number = match self.metadata.get(&key) {
            None => return Ok(None),
            Some(Value::Integers(each)) => match each.split_first() {
                Some((first, rest)) if rest.iter().all(|other| other == first) => u64::try_from(*first).ok(),
                _ => return Err(Error::Unsupported(format!("GGUF: {key} differs from layer to layer"))),
            },
            Some(value) => value.as_u64(),
        };
        let size = number.and_then(|number| usize::try_from(number).ok());
        size.map(Some).ok_or_else(|| bad(&key, "is no whole number"))
    }

    /// A flag for each layer; `None` also where it is a single number.
    pub(crate) fn flags(&self, word: &str) -> Result<Option<Vec<bool>>, Error> {
        let each = self.metadata.get(&self.key(word)?).and_then(|value| value.as_integers());
        Ok(each.map(|each| each.iter().map(|flag| *flag != 0).collect()))
    }

    fn needed(&self, word: &str) -> Result<usize, Error> {
        self.size(word)?.ok_or_else(|| bad(&self.key(word).unwrap_or_default(), "is missing"))
    }
}

fn bad(key: &str, reason: impl std::fmt::Display) -> Error {
    Error::BadModel(format!("GGUF: {key} {reason}"))
}

/// The number its writer meant: 1e-5 stored as float32 reads 1e-5 again, not 9.999999747378752e-6.
fn shortest(x: f64) -> f64 {
    let single = x as f32;
    if f64::from(single) == x { single.to_string().parse().unwrap_or(x) } else { x }
}
