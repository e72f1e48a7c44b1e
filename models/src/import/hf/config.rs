//! `config.json` → [`ModelConfig`].

use super::fields::{Fields, bad};
use super::rope;
use crate::architectures::{Architecture, supported};
use crate::config::{Activation, Variant};
use crate::{Error, ModelConfig};
use serde_json::Value as Json;

pub(super) const CONTEXT_DEFAULT: usize = 2048;

/// Keys that say by their presence that more than a text decoder is meant.
const FOREIGN: [(&str, &str); 3] = [
    ("vision_config", "a vision model"),
    ("audio_config", "an audio model"),
    ("text_config", "a model of several modalities"),
];

/// Reads the object of a `config.json`.
pub(super) fn parse(json: &Json) -> Result<(&'static Architecture, ModelConfig), Error> {
    let fields = Fields { json, theta_default: 0.0 };
    let architecture = architecture(&fields)?;
    let defaults = &architecture.defaults;
    let fields = Fields { json, theta_default: defaults.theta };
    let hidden_size = fields.needed("hidden_size")?;
    let heads = fields.needed("num_attention_heads")?;
    let head_dim = match fields.size("head_dim")?.or(defaults.head_dim) {
        Some(n) => n,
        None if heads > 0 && hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => return Err(bad("num_attention_heads", format_args!("{heads} do not divide {hidden_size}"))),
    };
    let context_length = fields.size("max_position_embeddings")?.unwrap_or(CONTEXT_DEFAULT);
    let mut config = ModelConfig {
        architecture: architecture.name.to_owned(),
        vocab_size: fields.needed("vocab_size")?,
        hidden_size,
        intermediate_size: fields.needed("intermediate_size")?,
        layers: fields.needed("num_hidden_layers")?,
        heads,
        kv_heads: fields.size("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(defaults.epsilon),
        rope: rope::parse(&fields, context_length)?,
        context_length,
        tied_embedding: fields.flag("tie_word_embeddings")?.unwrap_or(defaults.tied_embedding),
        variant: Variant {
            activation: activation(&fields)?,
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

fn architecture(fields: &Fields) -> Result<&'static Architecture, Error> {
    for (key, what) in FOREIGN {
        if fields.get(key).is_some() {
            return Err(Error::Unsupported(format!("config.json: {key}: {what}; this version runs: {}", supported())));
        }
    }
    Architecture::by_model_type(fields.text("model_type")?.ok_or_else(|| bad("model_type", "is missing"))?)
}

/// Rows and columns that share a scale, where weights are 8-bit floats with scales for blocks of them.
pub(super) fn fp8_block(json: &Json) -> Result<Option<[usize; 2]>, Error> {
    let fields = Fields { json, theta_default: 0.0 };
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

fn activation(fields: &Fields) -> Result<Activation, Error> {
    let found = match fields.text("hidden_activation")? {
        None => fields.text("hidden_act")?,
        found => found,
    };
    match found {
        None | Some("silu" | "swish") => Ok(Activation::Silu),
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
