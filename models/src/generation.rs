//! The `generation` section of a snapshot: how the makers want the model sampled, and where it ends.
use serde::{Deserialize, Serialize};

/// Defaults of generation; a request's own fields win.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Generation {
    /// First token of a sequence.
    pub bos: Option<u32>,
    /// Any of these ends a generation.
    pub eos: Vec<u32>,
    /// Sampling temperature.
    pub temperature: Option<f32>,
    /// Nucleus mass.
    pub top_p: Option<f32>,
    /// Most candidates.
    pub top_k: Option<u32>,
    /// Least probability of a candidate, relative to the likeliest's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    /// Divides or multiplies logits of tokens that came before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
}
