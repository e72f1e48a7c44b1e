//! `config.json` → [`ModelConfig`].

use super::fields::{Fields, bad};
use super::rope;
use crate::architectures::{Architecture, supported};
use crate::config::{Activation, Variant};
use crate::{Error, ModelConfig};
use serde_json::Value as Json;

/// Keys that say by their presence that more than a text decoder is meant.
const FOREIGN: [(&str, &str); 3] = [
    ("vision_config", "a vision model"),
    ("audio_config", "an audio model"),
    ("text_config", "a model of several modalities"),
];

/// Reads the object of a `config.json`.
pub(super) fn parse(json: &Json) -> Result<(&'static Architecture, ModelConfig), Error> {
    let (architecture, json) = architecture(json)?;
    let defaults = &architecture.defaults;
    let fields = Fields { json, theta_default: defaults.theta, context_default: defaults.context_length };
    let needed = |key: &str, default: Option<usize>| match (fields.size(key)?, default) {
        (None, Some(default)) => Ok(default),
        _ => fields.needed(key),
    };
    let hidden_size = fields.needed("hidden_size")?;
    let heads = needed("num_attention_heads", defaults.heads)?;
    let head_dim = match fields.size("head_dim")?.or(defaults.head_dim) {
        Some(n) => n,
        // What does not divide is rounded down, as the makers' code does.
        None if heads > 0 => hidden_size / heads,
        None => return Err(bad("num_attention_heads", "is 0")),
    };
    let context_length = fields.context_length()?;
    let mut config = ModelConfig {
        architecture: architecture.name.to_owned(),
        vocab_size: needed("vocab_size", defaults.vocab_size)?,
        hidden_size,
        intermediate_size: fields.needed("intermediate_size")?,
        layers: fields.needed("num_hidden_layers")?,
        heads,
        kv_heads: fields.size("num_key_value_heads")?.or(defaults.kv_heads).unwrap_or(heads),
        head_dim,
        rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(defaults.epsilon),
        rope: rope::parse(&fields, context_length)?,
        context_length,
        tied_embedding: fields.flag("tie_word_embeddings")?.unwrap_or(defaults.tied_embedding),
        variant: Variant {
            activation: activation(&fields, defaults.activation)?,
            rotary_dim: rotary_dim(&fields, head_dim)?,
            ..Variant::default()
        },
    };
    // Before an architecture allocates anything by these numbers.
    config.check("config.json")?;
    (architecture.read_config)(&fields, &mut config)?;
    config.check("config.json")?;
    Ok((architecture, config))
}

/// The architecture, and the object that has its keys: of a model of several modalities the text part.
fn architecture(json: &Json) -> Result<(&'static Architecture, &Json), Error> {
    let fields = Fields::of(json);
    let model_type = fields.text("model_type")?;
    if let Some(architecture) = model_type.and_then(Architecture::text_of)
        && let Some(text) = fields.object("text_config")?
    {
        return Ok((architecture, text.json));
    }
    for (key, what) in FOREIGN {
        if fields.get(key).is_some() {
            return Err(Error::Unsupported(format!("config.json: {key}: {what}; this version runs: {}", supported())));
        }
    }
    Ok((Architecture::by_model_type(model_type.ok_or_else(|| bad("model_type", "is missing"))?)?, json))
}

/// Rows and columns that share a scale, where weights are 8-bit floats with scales for blocks of them.
pub(super) fn fp8_block(json: &Json) -> Result<Option<[usize; 2]>, Error> {
    let fields = Fields::of(json);
    let Some(quantised) = fields.object("quantization_config")? else { return Ok(None) };
    let method = quantised.text("quant_method")?.unwrap_or_default();
    if method != "fp8" {
        let what = "weights quantised by another tool; this version reads fp8: take the original, or a .gguf";
        return Err(Error::Unsupported(format!("config.json: quantization_config: `{method}`: {what}")));
    }
    match quantised.sizes("weight_block_size")?.as_deref() {
        None => Ok(None),
        Some(&[rows, columns]) if rows > 0 && columns > 0 => Ok(Some([rows, columns])),
        Some(other) => Err(bad("quantization_config.weight_block_size", format_args!("{other:?} are not two sizes"))),
    }
}

fn activation(fields: &Fields, default: Activation) -> Result<Activation, Error> {
    let found = match fields.text("hidden_activation")? {
        None => fields.text("hidden_act")?,
        found => found,
    };
    match found {
        None => Ok(default),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some("gelu") => Ok(Activation::Gelu),
        Some("gelu_pytorch_tanh" | "gelu_new") => Ok(Activation::GeluTanh),
        Some(other) => {
            let runs = "this version runs silu, gelu and gelu_pytorch_tanh";
            Err(Error::Unsupported(format!("config.json: hidden_act `{other}`; {runs}")))
        }
    }
}

fn rotary_dim(fields: &Fields, head_dim: usize) -> Result<Option<usize>, Error> {
    match rope::partial_factor(fields)? {
        None | Some(1.0) => Ok(None),
        Some(factor) if factor > 0.0 && factor < 1.0 => Ok(Some((head_dim as f64 * factor) as usize)),
        Some(factor) => Err(bad("partial_rotary_factor", format_args!("{factor} is not between 0 and 1"))),
    }
}
