//! Phi-3, Phi-3.5 and Phi-4 (Abdin et al. 2024, arXiv:2404.14219): a Llama with fused projections, a partial rotation, and
//! LongRoPE.

use super::{Architecture, Defaults};
use crate::ModelConfig;
use crate::config::Sliding;
use crate::import::tensor::Place;

pub(super) const PHI3: Architecture = Architecture {
    name: "phi3",
    model_type: "phi3",
    gguf: "phi3",
    defaults: Defaults { epsilon: 1e-5, ..Architecture::BASE.defaults },
    read_config: |fields, config| {
        let window = fields.size("sliding_window")?;
        let layers = vec![true; config.layers];
        config.variant.sliding = window.map(|window| Sliding { window, layers, rope: None });
        Ok(())
    },
    read_gguf: |gguf, config| {
        config.variant.sliding = gguf.sliding(config.layers)?;
        Ok(())
    },
    place: |config, canonical| {
        fused(config, canonical, "qkv_proj", "gate_up_proj").unwrap_or_else(|| Place::whole(canonical))
    },
    gguf_place: |config, canonical| {
        let place = fused(config, canonical, "qkv", "up")?;
        let (layer, part) = place.name.strip_prefix("model.layers.")?.split_once('.')?;
        let part = part.replace("self_attn.qkv", "attn_qkv").replace("mlp.up", "ffn_up");
        Some(Place { name: format!("blk.{layer}.{part}"), ..place })
    },
    ..Architecture::BASE
};

/// The part of a fused projection that the canonical tensor is.
fn fused(config: &ModelConfig, canonical: &str, qkv: &str, gate_up: &str) -> Option<Place> {
    let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (path, _weight) = canonical.rsplit_once('.')?;
    let (path, part) = path.rsplit_once('.')?;
    let (fused, rows, first) = match part {
        "q_proj" => (qkv, q + 2 * kv, 0),
        "k_proj" => (qkv, q + 2 * kv, q),
        "v_proj" => (qkv, q + 2 * kv, q + kv),
        "gate_proj" => (gate_up, 2 * inner, 0),
        "up_proj" => (gate_up, 2 * inner, inner),
        _ => return None,
    };
    Some(Place::part(format!("{path}.{fused}.weight"), &[rows, hidden], first))
}
