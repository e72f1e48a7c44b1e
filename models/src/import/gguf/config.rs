//! GGUF metadata → [`ModelConfig`] and [`Generation`].

use super::{Gguf, Value};
use crate::{Architecture, Error, Generation, ModelConfig, Rope, RopeScaling};

const CONTEXT_DEFAULT: usize = 2048;
const THETA_DEFAULT: f64 = 10_000.0;
const EPSILON_DEFAULT: f64 = 1e-5;

impl Gguf {
    pub(super) fn architecture(&self) -> Result<Architecture, Error> {
        match self.string("general.architecture")? {
            Some("llama") => Ok(Architecture::Llama),
            Some(other) => Err(Error::Unsupported(format!("architecture `{other}`; this version runs: llama"))),
            None => Err(Error::BadModel("GGUF: general.architecture is missing".into())),
        }
    }

    /// Shape of the model; frequency factors come from a tensor and are the caller's.
    pub(super) fn config(&self) -> Result<ModelConfig, Error> {
        let architecture = self.architecture()?;
        self.refuse_variants()?;
        let hidden_size = self.needed("embedding_length")?;
        let heads = self.needed("attention.head_count")?;
        let head_dim = match self.size("attention.key_length")? {
            Some(n) => n,
            None if heads > 0 => hidden_size / heads,
            None => return Err(bad("llama.attention.head_count", "is 0")),
        };
        let config = ModelConfig {
            architecture,
            vocab_size: self.vocab_size()?,
            hidden_size,
            intermediate_size: self.needed("feed_forward_length")?,
            layers: self.needed("block_count")?,
            heads,
            kv_heads: self.size("attention.head_count_kv")?.unwrap_or(heads),
            head_dim,
            rms_norm_eps: self.number("attention.layer_norm_rms_epsilon")?.map_or(EPSILON_DEFAULT, shortest),
            rope: self.rope(head_dim)?,
            context_length: self.size("context_length")?.unwrap_or(CONTEXT_DEFAULT),
            tied_embedding: !self.tensors.iter().any(|tensor| tensor.name == "output.weight"),
        };
        config.check("GGUF")?;
        Ok(config)
    }

    /// Variants that carry the same architecture's name but another graph.
    fn refuse_variants(&self) -> Result<(), Error> {
        let unsupported = |what: &str| Err(Error::Unsupported(format!("GGUF: {what}; this version runs dense Llama")));
        if self.size("expert_count")?.unwrap_or(0) > 0 {
            return unsupported("llama.expert_count: a mixture of experts");
        }
        if self.size("attention.sliding_window")?.unwrap_or(0) > 0 {
            return unsupported("llama.attention.sliding_window: a sliding window");
        }
        if self.string("general.type")?.is_some_and(|kind| kind != "model") {
            return unsupported("general.type: an adapter (LoRA) or projector, not a model");
        }
        let key_length = self.size("attention.key_length")?;
        if self.size("attention.value_length")?.is_some_and(|length| key_length.is_some_and(|key| key != length)) {
            return unsupported("llama.attention.value_length differs from key_length");
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

    fn rope(&self, head_dim: usize) -> Result<Rope, Error> {
        if let Some(n) = self.size("rope.dimension_count")?.filter(|&n| n != head_dim) {
            return Err(Error::Unsupported(format!(
                "GGUF: llama.rope.dimension_count {n} with heads of {head_dim}: a partial rotation"
            )));
        }
        let theta = self.number("rope.freq_base")?.map_or(THETA_DEFAULT, shortest);
        let factor = match self.number("rope.scaling.factor")? {
            None => self.number("rope.scale_linear")?,
            factor => factor,
        };
        let scaling = match (self.string("llama.rope.scaling.type")?, factor) {
            (None | Some("linear"), Some(factor)) if factor != 1.0 && factor != 0.0 => {
                RopeScaling::Linear { factor: shortest(factor) }
            }
            (None | Some("none" | "linear"), _) => RopeScaling::None,
            (Some(other), _) => {
                let runs = "this version runs none, linear and llama3 (frequency factors)";
                return Err(Error::Unsupported(format!("GGUF: llama.rope.scaling.type `{other}`; {runs}")));
            }
        };
        Ok(Rope { theta, scaling })
    }

    pub(super) fn generation(&self) -> Result<Generation, Error> {
        let mut eos = Vec::new();
        for key in ["eos", "eot", "eom"] {
            eos.extend(self.token(key)?.filter(|id| !eos.contains(id)));
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

    fn number(&self, word: &str) -> Result<Option<f64>, Error> {
        let key = format!("llama.{word}");
        let Some(value) = self.metadata.get(&key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| bad(&key, "is no number"))
    }

    /// A whole number; an array (one for each layer) only where all its elements are the same.
    fn size(&self, word: &str) -> Result<Option<usize>, Error> {
        let key = format!("llama.{word}");
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

    fn needed(&self, word: &str) -> Result<usize, Error> {
        self.size(word)?.ok_or_else(|| bad(&format!("llama.{word}"), "is missing"))
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
