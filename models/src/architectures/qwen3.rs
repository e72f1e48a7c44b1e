//! Qwen 3 (Yang et al. 2025, arXiv:2505.09388): a Llama whose queries and keys are normalised head by head.

use super::{Architecture, Defaults};

pub(super) const QWEN3: Architecture = Architecture {
    name: "qwen3",
    model_type: "qwen3",
    gguf: "qwen3",
    defaults: Defaults { head_dim: Some(128), ..Architecture::BASE.defaults },
    read_config: |fields, config| {
        let bias = fields.flag("attention_bias")?.unwrap_or(false);
        (config.variant.biases.qkv, config.variant.biases.output) = (bias, bias);
        config.variant.qk_norm = true;
        config.variant.sliding = fields.upper_layers_sliding(config.layers)?;
        Ok(())
    },
    ..Architecture::BASE
};
