//! The `config` section of a snapshot: our own canonical form of every importer's configuration.
//!
//! Holds what a graph needs to be built and nothing about files; importers fill it, `restore` reads it. A plain Llama is
//! the base; what other architectures do differently is data, too: [`Variant`].
use crate::Error;
use crate::rope_config::Rope;
use serde::{Deserialize, Serialize};
use snapshot::{SectionKind, Snapshot};

/// Largest of each: far above any model known, far below what could overflow or exhaust memory by itself.
const VOCAB_MAX: usize = 1 << 22;
const WIDTH_MAX: usize = 1 << 18;
const LAYERS_MAX: usize = 1 << 10;
const HEADS_MAX: usize = 1 << 10;
const HEAD_DIM_MAX: usize = 1 << 10;
const CONTEXT_MAX: usize = 1 << 27;
const EXPERTS_MAX: usize = 1 << 10;
/// All layers' experts together; each has tensors of its own.
const EXPERTS_IN_ALL_MAX: usize = 1 << 14;

/// The shape of a decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// What its makers call this kind of model. For people: the graph follows from the other fields alone.
    pub architecture: String,
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
    /// What differs from a plain Llama.
    #[serde(default, flatten)]
    pub variant: Variant,
}

/// What a model does differently from a plain Llama; the default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Variant {
    /// Which projections add a vector.
    pub biases: Biases,
    /// Queries and keys are normalised head by head before they are rotated (Qwen 3, Gemma 3).
    pub qk_norm: bool,
    /// Attention and feed-forward are normalised once more before they are added to the stream (Gemma).
    pub output_norms: bool,
    /// Added to every norm's weight: some makers store the difference to 1 (Gemma).
    pub norm_offset: f32,
    /// Of the feed-forward's gate.
    pub activation: Activation,
    /// Embeddings are multiplied by it.
    pub embedding_scale: Option<f32>,
    /// Scores of attention are multiplied by it, instead of by `1 / sqrt(head_dim)`.
    pub attention_scale: Option<f32>,
    /// Logits are bent to `cap · tanh(logit / cap)`.
    pub logit_softcap: Option<f32>,
    /// Only so many elements of a head are rotated; even (Phi).
    pub rotary_dim: Option<usize>,
    /// Layers that see only so far back.
    pub sliding: Option<Sliding>,
    /// Feed-forward by experts.
    pub experts: Option<Experts>,
    /// It is no decoder: it makes embeddings.
    pub encoder: Option<EncoderConfig>,
}

/// Which projections add a vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// Attention's output.
    pub output: bool,
    /// All three of the feed-forward.
    pub mlp: bool,
}

/// The gate's function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x · sigmoid(x)`.
    #[default]
    Silu,
    /// GELU by its approximation with a tanh.
    GeluTanh,
    /// GELU by the error function.
    Gelu,
}

/// Attention over a sliding window.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sliding {
    /// Positions that are seen, the own included.
    pub window: usize,
    /// Which layers have it; one element per layer.
    pub layers: Vec<bool>,
    /// The rotation of these layers, where it is not the model's (Gemma 3).
    pub rope: Option<Rope>,
}

/// A mixture of experts (Shazeer et al. 2017, arXiv:1701.06538).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Experts {
    /// How many there are in each layer.
    pub count: usize,
    /// How many a token goes through.
    pub used: usize,
    /// Width inside one.
    pub width: usize,
    /// The weights of those used are scaled to a sum of 1.
    pub renormalise: bool,
    /// Layers without experts.
    pub dense_layers: Vec<usize>,
}

/// What makes a model an encoder (BERT's family).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncoderConfig {
    /// Rows of the table of positions.
    pub positions: usize,
    /// The first token's row in it (RoBERTa: 2).
    pub position_offset: usize,
    /// Rows of the table of token types; all tokens are of type 0.
    pub token_types: usize,
    /// How a sequence's rows become one vector.
    pub pooling: Pooling,
    /// That vector has length 1.
    pub normalise: bool,
}

/// How the rows of a sequence become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The first token's.
    First,
}

impl ModelConfig {
    /// The configuration in a snapshot, checked.
    ///
    /// # Errors
    /// [`Error::BadModel`] names the field.
    pub fn from_snapshot(snapshot: &Snapshot) -> Result<Self, Error> {
        let section = snapshot.section(SectionKind::Config)?;
        let json = section.ok_or_else(|| Error::BadModel("the snapshot has no config section".into()))?;
        let config: Self = serde_json::from_slice(json).map_err(|e| Error::BadModel(format!("config section: {e}")))?;
        // No later arithmetic can then overflow or divide by zero.
        config.check("config section")?;
        Ok(config)
    }

    /// Refuses a shape that no graph can have; `what` is the file or section it came from.
    ///
    /// # Errors
    /// [`Error::BadModel`] names the field and its value.
    pub fn check(&self, what: &str) -> Result<(), Error> {
        self.checked().map_err(|(field, reason)| Error::BadModel(format!("{what}: {field}: {reason}")))
    }

    /// The experts of layer `layer`, where it has some.
    pub(crate) fn experts_of(&self, layer: usize) -> Option<&Experts> {
        self.variant.experts.as_ref().filter(|experts| !experts.dense_layers.contains(&layer))
    }

    /// Elements of a head that are rotated.
    pub(crate) fn rotary_dim(&self) -> usize {
        self.variant.rotary_dim.unwrap_or(self.head_dim)
    }

    fn checked(&self) -> Result<(), (&'static str, String)> {
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
            within(field, value, 1, max)?;
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(("kv_heads", format!("{} do not divide {} heads", self.kv_heads, self.heads)));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(("head_dim", format!("{} is odd, rotation needs pairs", self.head_dim)));
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps >= 0.0) {
            return Err(("rms_norm_eps", format!("{} is no small positive number", self.rms_norm_eps)));
        }
        self.rope.check(self.rotary_dim()).map_err(|reason| ("rope", reason))?;
        self.variant.check(self)
    }
}

impl Variant {
    fn check(&self, config: &ModelConfig) -> Result<(), (&'static str, String)> {
        if let Some(rotary) = self.rotary_dim {
            within("rotary_dim", rotary, 2, config.head_dim)?;
            if !rotary.is_multiple_of(2) {
                return Err(("rotary_dim", format!("{rotary} is odd, rotation needs pairs")));
            }
        }
        for (field, value) in [
            ("embedding_scale", self.embedding_scale),
            ("attention_scale", self.attention_scale),
            ("logit_softcap", self.logit_softcap),
        ] {
            if value.is_some_and(|x| !(x.is_finite() && x > 0.0)) {
                return Err((field, format!("{value:?} is no positive number")));
            }
        }
        if !self.norm_offset.is_finite() {
            return Err(("norm_offset", format!("{} is no number", self.norm_offset)));
        }
        if let Some(sliding) = &self.sliding {
            within("sliding.window", sliding.window, 1, CONTEXT_MAX)?;
            within("sliding.layers", sliding.layers.len(), config.layers, config.layers)?;
            let rope = sliding.rope.as_ref().map_or(Ok(()), |rope| rope.check(config.rotary_dim()));
            rope.map_err(|reason| ("sliding.rope", reason))?;
        }
        if let Some(experts) = &self.experts {
            within("experts.count", experts.count, 1, EXPERTS_MAX)?;
            within("experts in all layers", experts.count * config.layers, 1, EXPERTS_IN_ALL_MAX)?;
            within("experts.used", experts.used, 1, experts.count)?;
            within("experts.width", experts.width, 1, WIDTH_MAX)?;
            within("experts.dense_layers", experts.dense_layers.len(), 0, config.layers)?;
        }
        if let Some(encoder) = &self.encoder {
            within("encoder.positions", encoder.positions, 1, CONTEXT_MAX)?;
            within("encoder.position_offset", encoder.position_offset, 0, encoder.positions - 1)?;
            within("encoder.token_types", encoder.token_types, 1, VOCAB_MAX)?;
            within("context_length", config.context_length, 1, encoder.positions - encoder.position_offset)?;
            within("head_dim", config.head_dim * config.heads, config.hidden_size, config.hidden_size)?;
        }
        Ok(())
    }
}

fn within(field: &'static str, value: usize, min: usize, max: usize) -> Result<(), (&'static str, String)> {
    if (min..=max).contains(&value) { Ok(()) } else { Err((field, format!("{value}, accepted are {min} to {max}"))) }
}
