//! Mistral (Jiang et al. 2023, arXiv:2310.06825): a Llama whose layers see a sliding window.

use super::Architecture;
use crate::config::Sliding;

/// The window where `config.json` says nothing; `null` says that there is none.
const WINDOW_DEFAULT: usize = 4096;

pub(super) const MISTRAL: Architecture = Architecture {
    name: "mistral",
    model_type: "mistral",
    read_config: |fields, config| {
        let window = if fields.has("sliding_window") { fields.size("sliding_window")? } else { Some(WINDOW_DEFAULT) };
        let sliding = fields.layer_kinds(config.layers)?.unwrap_or_else(|| vec![true; config.layers]);
        config.variant.sliding = window.map(|window| Sliding { window, layers: sliding, rope: None });
        Ok(())
    },
    ..Architecture::BASE
};
