//! The `config` section of a snapshot: our own canonical form of every importer's configuration.
//!
//! Holds what a graph needs to be built and nothing about files; importers fill it, `restore` reads it.
use crate::Error;
use serde::{Deserialize, Serialize};

/// Largest of each: far above any model known, far below what could overflow or exhaust memory by itself.
const VOCAB_MAX: usize = 1 << 22;
const WIDTH_MAX: usize = 1 << 18;
const LAYERS_MAX: usize = 1 << 10;
const HEADS_MAX: usize = 1 << 10;
const HEAD_DIM_MAX: usize = 1 << 10;
const CONTEXT_MAX: usize = 1 << 27;

/// The shape of a decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Which graph runs it.
    pub architecture: Architecture,
    /// Rows of the embedding and of the head.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside the feed-forward part.
    pub intermediate_size: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head; even.
    pub head_dim: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Rotary positions.
    pub rope: Rope,
    /// Most tokens the model was made for.
    pub context_length: usize,
    /// The head is the embedding.
    pub tied_embedding: bool,
}

impl ModelConfig {
    /// Refuses a shape that no graph can have; `what` is the file or section it came from.
    ///
    /// # Errors
    /// [`Error::BadModel`] names the field and its value.
    pub fn check(&self, what: &str) -> Result<(), Error> {
        let bad = |field: &str, reason: String| Err(Error::BadModel(format!("{what}: {field}: {reason}")));
        for (field, value, max) in [
            ("vocab_size", self.vocab_size, VOCAB_MAX),
            ("hidden_size", self.hidden_size, WIDTH_MAX),
            ("intermediate_size", self.intermediate_size, WIDTH_MAX),
            ("layers", self.layers, LAYERS_MAX),
            ("heads", self.heads, HEADS_MAX),
            ("kv_heads", self.kv_heads, HEADS_MAX),
            ("head_dim", self.head_dim, HEAD_DIM_MAX),
            ("context_length", self.context_length, CONTEXT_MAX),
        ] {
            if value == 0 || value > max {
                return bad(field, format!("{value}, accepted are 1 to {max}"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return bad("kv_heads", format!("{} do not divide {} heads", self.kv_heads, self.heads));
        }
        if !self.head_dim.is_multiple_of(2) {
            return bad("head_dim", format!("{} is odd, rotation needs pairs", self.head_dim));
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps >= 0.0) {
            return bad("rms_norm_eps", format!("{} is no small positive number", self.rms_norm_eps));
        }
        self.rope.check(self.head_dim).or_else(|reason| bad("rope", reason))
    }
}

/// The graphs that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// Llama 2, 3 and those that share its shape (SmolLM2).
    Llama,
}

/// Rotary position embedding: half-rotation layout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How the frequencies are stretched.
    pub scaling: RopeScaling,
}

impl Rope {
    fn check(&self, head_dim: usize) -> Result<(), String> {
        let positive = |name: &str, x: f64| {
            if x.is_finite() && x > 0.0 { Ok(()) } else { Err(format!("{name} {x} is no positive number")) }
        };
        positive("theta", self.theta)?;
        match &self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("factor", *factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                positive("factor", *factor)?;
                positive("low_freq_factor", *low_freq_factor)?;
                positive("high_freq_factor", *high_freq_factor)?;
                if high_freq_factor <= low_freq_factor {
                    return Err(format!("high_freq_factor {high_freq_factor} is not above {low_freq_factor}"));
                }
                positive("original_context", *original_context as f64)
            }
            RopeScaling::Factors { factors } if factors.len() != head_dim / 2 => {
                Err(format!("{} frequency factors, head_dim {head_dim} needs {}", factors.len(), head_dim / 2))
            }
            RopeScaling::Factors { factors } => factors.iter().try_for_each(|x| positive("frequency factor", *x)),
        }
    }
}

/// Stretching of rotary frequencies for long contexts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RopeScaling {
    /// None.
    None,
    /// Positions divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3's three bands.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths over `original_context / low_freq_factor` are divided by `factor`.
        low_freq_factor: f64,
        /// Wavelengths under `original_context / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context of the original training.
        original_context: usize,
    },
    /// Frequency `i` is divided by `factors[i]`; `head_dim / 2` of them (GGUF's `rope_freqs.weight`).
    Factors {
        /// The divisors, all finite and positive.
        factors: Vec<f64>,
    },
}
