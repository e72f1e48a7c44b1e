//! Mixtral (Jiang et al. 2024, arXiv:2401.04088): Mistral with a mixture of experts in every layer.

use super::{Architecture, Defaults};
use crate::config::{Experts, Sliding};
use crate::import::tensor::Place;

pub(super) const MIXTRAL: Architecture = Architecture {
    name: "mixtral",
    model_type: "mixtral",
    defaults: Defaults { epsilon: 1e-5, theta: 1e6, ..Architecture::BASE.defaults },
    read_config: |fields, config| {
        config.variant.experts = Some(Experts {
            count: fields.size("num_local_experts")?.unwrap_or(8),
            used: fields.size("num_experts_per_tok")?.unwrap_or(2),
            width: config.intermediate_size,
            renormalise: true,
            dense_layers: Vec::new(),
        });
        let window = fields.size("sliding_window")?;
        let layers = vec![true; config.layers];
        config.variant.sliding = window.map(|window| Sliding { window, layers, rope: None });
        Ok(())
    },
    place: |_, canonical| {
        let name = canonical.replace(".mlp.", ".block_sparse_moe.");
        let name = name.replace(".gate_proj.", ".w1.").replace(".up_proj.", ".w3.").replace(".down_proj.", ".w2.");
        Place::whole(name)
    },
    ..Architecture::BASE
};
