//! Llama 2, 3 and 3.x (Touvron et al. 2023, arXiv:2302.13971), and what shares its shape: SmolLM2.

use super::Architecture;
use crate::ModelConfig;

pub(super) const LLAMA: Architecture = Architecture {
    name: "llama",
    model_type: "llama",
    gguf: "llama",
    read_config: |fields, config| {
        let attention = fields.flag("attention_bias")?.unwrap_or(false);
        let biases = &mut config.variant.biases;
        (biases.qkv, biases.output) = (attention, attention);
        biases.mlp = fields.flag("mlp_bias")?.unwrap_or(false);
        Ok(())
    },
    // llama.cpp has Mistral and Mixtral under this name, too.
    read_gguf: |gguf, config: &mut ModelConfig| {
        config.variant.sliding = gguf.sliding(config.layers)?;
        config.variant.experts = gguf.experts(config.intermediate_size)?;
        Ok(())
    },
    gguf_interleaved: true,
    ..Architecture::BASE
};
