//! BERT and RoBERTa (Devlin et al. 2018, arXiv:1810.04805; Liu et al. 2019, arXiv:1907.11692), multilingual ones included: the
//! encoders behind most sentence embeddings, all-MiniLM-L6-v2 among them.

use super::Architecture;
use crate::config::{Activation, EncoderConfig, Pooling};
use crate::import::hf::Fields;
use crate::{Error, ModelConfig};

pub(super) const BERT: Architecture = Architecture {
    name: "bert",
    model_type: "bert",
    read_config: |fields, config| encoder(fields, config, 0),
    published,
    ..Architecture::BASE
};

pub(super) const ROBERTA: Architecture = Architecture { name: "roberta", model_type: "roberta", ..WITH_OFFSET };

pub(super) const XLM_ROBERTA: Architecture =
    Architecture { name: "xlm-roberta", model_type: "xlm-roberta", ..WITH_OFFSET };

/// RoBERTa counts positions from one past the padding token's id.
const WITH_OFFSET: Architecture = Architecture {
    read_config: |fields, config| {
        let padding = fields.size("pad_token_id")?.unwrap_or(1);
        encoder(fields, config, padding.saturating_add(1))
    },
    published,
    ..Architecture::BASE
};

fn encoder(fields: &Fields, config: &mut ModelConfig, position_offset: usize) -> Result<(), Error> {
    let unsupported = |what: &str| Err(Error::Unsupported(format!("config.json: {what}")));
    if fields.text("position_embedding_type")?.is_some_and(|kind| kind != "absolute") {
        return unsupported("position_embedding_type: this version runs absolute");
    }
    if fields.is_on("is_decoder") {
        return unsupported("is_decoder: this version runs BERT as an encoder");
    }
    if config.variant.activation != Activation::Gelu {
        return unsupported("hidden_act: this version runs BERT with gelu");
    }
    config.rms_norm_eps = fields.number("layer_norm_eps")?.unwrap_or(1e-12);
    config.tied_embedding = true;
    let positions = config.context_length;
    config.context_length = positions.saturating_sub(position_offset);
    config.variant.encoder = Some(EncoderConfig {
        positions,
        position_offset,
        token_types: fields.size("type_vocab_size")?.unwrap_or(2),
        pooling: Pooling::Mean,
        normalise: true,
    });
    Ok(())
}

/// What a classifier or a masked language model has around the encoder is left out.
fn published(name: &str) -> Option<&str> {
    let name = name.strip_prefix("bert.").or_else(|| name.strip_prefix("roberta.")).unwrap_or(name);
    let left_out = ["pooler.", "cls.", "lm_head.", "classifier."].iter().any(|part| name.starts_with(part));
    (!left_out && !name.ends_with("position_ids") && !name.ends_with("token_type_ids")).then_some(name)
}
