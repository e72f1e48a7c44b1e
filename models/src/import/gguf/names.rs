//! Where llama.cpp's converter puts the canonical tensors.

use super::super::tensor::Place;
use crate::{ModelConfig, architectures::Architecture};

/// The place of a canonical tensor; `None` where GGUF has no such thing.
pub(super) fn of(architecture: &Architecture, config: &ModelConfig, canonical: &str) -> Option<Place> {
    (architecture.gguf_place)(config, canonical).or_else(|| usual(config, canonical))
}

fn usual(config: &ModelConfig, canonical: &str) -> Option<Place> {
    let name = match canonical {
        "model.embed_tokens.weight" => "token_embd.weight",
        "model.norm.weight" => "output_norm.weight",
        "lm_head.weight" => "output.weight",
        _ => return of_layer(config, canonical),
    };
    Some(Place::whole(name))
}

fn of_layer(config: &ModelConfig, canonical: &str) -> Option<Place> {
    let (layer, part) = canonical.strip_prefix("model.layers.")?.split_once('.')?;
    let (part, kind) = part.rsplit_once('.')?;
    if let Some(expert) = part.strip_prefix("mlp.experts.") {
        let (expert, part) = expert.split_once('.')?;
        return stacked(config, layer, expert.parse().ok()?, part);
    }
    let part = match part {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "self_attn.o_proj" => "attn_output",
        "attention_out_norm" => "post_attention_norm",
        "post_attention_layernorm" => "ffn_norm",
        "mlp_out_norm" => "post_ffw_norm",
        "mlp.gate" => "ffn_gate_inp",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    Some(Place::whole(format!("blk.{layer}.{part}.{kind}")))
}

/// All experts' matrices of one kind are one tensor, `[experts, rows, columns]`.
fn stacked(config: &ModelConfig, layer: &str, expert: usize, part: &str) -> Option<Place> {
    let experts = config.variant.experts.as_ref()?;
    let (name, rows, columns) = match part {
        "gate_proj" => ("ffn_gate_exps", experts.width, config.hidden_size),
        "up_proj" => ("ffn_up_exps", experts.width, config.hidden_size),
        "down_proj" => ("ffn_down_exps", config.hidden_size, experts.width),
        _ => return None,
    };
    Some(Place::part(format!("blk.{layer}.{name}.weight"), &[experts.count, rows, columns], expert * rows))
}
