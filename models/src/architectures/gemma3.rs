//! Gemma 3, text (Gemma Team 2025, arXiv:2503.19786): local and global layers with rotations of their own, norms on both
//! sides of each part, norms of queries and keys, and scaled embeddings.

use super::{Architecture, Defaults};
use crate::config::{Activation, Sliding};
use crate::import::{hf::Fields, tensor::Place};
use crate::{Error, ModelConfig, Rope, RopeScaling};

const WINDOW_DEFAULT: usize = 4096;
/// Every so-manieth layer is global.
const PATTERN_DEFAULT: usize = 6;
const LOCAL_THETA: f64 = 10_000.0;
const QUERY_SCALAR_DEFAULT: f64 = 256.0;

pub(super) const GEMMA3: Architecture = Architecture {
    name: "gemma3_text",
    model_type: "gemma3_text",
    gguf: "gemma3",
    text_of: "gemma3",
    // The published files of the larger sizes leave out what is as in the 4B one.
    defaults: Defaults {
        tied_embedding: true,
        theta: 1e6,
        head_dim: Some(256),
        heads: Some(8),
        kv_heads: Some(4),
        vocab_size: Some(262_208),
        context_length: 131_072,
        activation: Activation::GeluTanh,
        ..Architecture::BASE.defaults
    },
    published,
    read_config: |fields, config| {
        if fields.is_on("use_bidirectional_attention") {
            let what = "config.json: use_bidirectional_attention: an encoder; this version runs Gemma 3 as a decoder";
            return Err(Error::Unsupported(what.into()));
        }
        shared(config);
        config.variant.norm_offset = 1.0;
        let bias = fields.flag("attention_bias")?.unwrap_or(false);
        (config.variant.biases.qkv, config.variant.biases.output) = (bias, bias);
        let scalar = fields.number("query_pre_attn_scalar")?.unwrap_or(QUERY_SCALAR_DEFAULT);
        config.variant.attention_scale = Some((1.0 / scalar.sqrt()) as f32);
        // `attn_logit_softcapping` stands in the files and does nothing: norms of queries and keys took its place.
        config.variant.logit_softcap = fields.number("final_logit_softcapping")?.map(|cap| cap as f32);
        let pattern = fields
            .size("sliding_window_pattern")?
            .or(fields.size("_sliding_window_pattern")?)
            .unwrap_or(PATTERN_DEFAULT);
        let layers = fields.layer_kinds(config.layers)?.unwrap_or_else(|| local_layers(config.layers, pattern));
        let window = fields.size("sliding_window")?.unwrap_or(WINDOW_DEFAULT);
        config.variant.sliding = Some(Sliding { window, layers, rope: Some(local_rope(fields)?) });
        Ok(())
    },
    // llama.cpp's converter has added the offset to the norms.
    read_gguf: |gguf, config| {
        shared(config);
        let sliding = gguf.sliding(config.layers)?;
        let theta = gguf.number("rope.freq_base_swa")?.unwrap_or(LOCAL_THETA);
        let rope = Some(Rope { theta, scaling: RopeScaling::None });
        let layers = match gguf.flags("attention.sliding_window_pattern")? {
            Some(layers) if layers.len() == config.layers => layers,
            Some(layers) => {
                let (found, wanted) = (layers.len(), config.layers);
                let what = format!("gemma3.attention.sliding_window_pattern has {found} layers, not {wanted}");
                return Err(Error::BadModel(format!("GGUF: {what}")));
            }
            None => {
                let every = gguf.size("attention.sliding_window_pattern")?.filter(|&every| every > 0);
                local_layers(config.layers, every.unwrap_or(PATTERN_DEFAULT))
            }
        };
        config.variant.logit_softcap = gguf.number("final_logit_softcapping")?.map(|cap| cap as f32);
        config.variant.sliding = sliding.map(|sliding| Sliding { layers, rope, ..sliding });
        // The one size whose queries are scaled by the model's width (27B: 62 layers) says so by its shape alone.
        let width = if config.layers == 62 { config.hidden_size / config.heads } else { config.head_dim };
        config.variant.attention_scale = Some(1.0 / (width as f32).sqrt());
        Ok(())
    },
    place: |_, canonical| {
        let name = match canonical.rsplit_once('.').map_or(canonical, |(path, _)| path).rsplit('.').next() {
            Some("attention_out_norm") => canonical.replace("attention_out_norm", "post_attention_layernorm"),
            Some("post_attention_layernorm") => {
                canonical.replace("post_attention_layernorm", "pre_feedforward_layernorm")
            }
            Some("mlp_out_norm") => canonical.replace("mlp_out_norm", "post_feedforward_layernorm"),
            _ => canonical.to_owned(),
        };
        Place::whole(name)
    },
    ..Architecture::BASE
};

/// What sees is left out, and what is before the names of the rest.
fn published(name: &str) -> Option<String> {
    if name.contains("vision_tower.") || name.contains("multi_modal_projector.") {
        return None;
    }
    // Before the usual names old files have one of these, and new ones the other.
    let name = name.strip_prefix("language_model.").unwrap_or(name);
    let inner = name.strip_prefix("model.language_model.").map(|rest| format!("model.{rest}"));
    (Architecture::BASE.published)(inner.as_deref().unwrap_or(name))
}

/// What every Gemma 3 has.
fn shared(config: &mut ModelConfig) {
    let scale = (config.hidden_size as f32).sqrt();
    let variant = &mut config.variant;
    variant.qk_norm = true;
    variant.output_norms = true;
    variant.activation = Activation::GeluTanh;
    variant.embedding_scale = Some(scale);
}

fn local_layers(layers: usize, pattern: usize) -> Vec<bool> {
    (1..=layers).map(|layer| !layer.is_multiple_of(pattern)).collect()
}

/// New configurations nest the rotation by kind of layer, old ones have a key of their own.
fn local_rope(fields: &Fields) -> Result<Rope, Error> {
    if let Some(rope) = fields.rope_of_kind("sliding_attention")? {
        return Ok(rope);
    }
    let theta = fields.number("rope_local_base_freq")?.unwrap_or(LOCAL_THETA);
    Ok(Rope { theta, scaling: RopeScaling::None })
}
