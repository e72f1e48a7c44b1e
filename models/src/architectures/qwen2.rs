//! Qwen 2 and 2.5 (Yang et al. 2024, arXiv:2407.10671): a Llama with biases on queries, keys and values.

use super::Architecture;

pub(super) const QWEN2: Architecture = Architecture {
    name: "qwen2",
    model_type: "qwen2",
    gguf: "qwen2",
    read_config: |fields, config| {
        config.variant.biases.qkv = true;
        config.variant.sliding = fields.upper_layers_sliding(config.layers)?;
        Ok(())
    },
    ..Architecture::BASE
};
