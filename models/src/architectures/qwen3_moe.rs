//! Qwen 3 with a mixture of experts in some layers or all.

use super::Architecture;
use crate::config::{Experts, Sliding};

pub(super) const QWEN3_MOE: Architecture = Architecture {
    name: "qwen3_moe",
    model_type: "qwen3_moe",
    gguf: "qwen3moe",
    read_config: |fields, config| {
        let bias = fields.flag("attention_bias")?.unwrap_or(false);
        (config.variant.biases.qkv, config.variant.biases.output) = (bias, bias);
        config.variant.qk_norm = true;
        let every = fields.size("decoder_sparse_step")?.unwrap_or(1).max(1);
        let listed = fields.sizes("mlp_only_layers")?.unwrap_or_default();
        let dense = |layer: &usize| !(layer + 1).is_multiple_of(every) || listed.contains(layer);
        config.variant.experts = Some(Experts {
            // The second name is that of transformers 5.
            count: fields.size("num_experts")?.or(fields.size("num_local_experts")?).unwrap_or(128),
            used: fields.size("num_experts_per_tok")?.unwrap_or(8),
            width: fields.needed("moe_intermediate_size")?,
            renormalise: fields.flag("norm_topk_prob")?.unwrap_or(false),
            dense_layers: (0..config.layers).filter(dense).collect(),
        });
        // The makers' code gives every layer the window, whatever `max_window_layers` says.
        let window = fields.size("sliding_window")?.filter(|_| fields.is_on("use_sliding_window"));
        let layers = vec![true; config.layers];
        config.variant.sliding = window.map(|window| Sliding { window, layers, rope: None });
        Ok(())
    },
    read_gguf: |gguf, config| {
        config.variant.experts = gguf.experts(config.intermediate_size)?;
        Ok(())
    },
    ..Architecture::BASE
};
