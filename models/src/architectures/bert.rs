//! BERT and RoBERTa (Devlin et al. 2018, arXiv:1810.04805; Liu et al. 2019, arXiv:1907.11692), multilingual ones included: the
//! encoders behind most sentence embeddings, all-MiniLM-L6-v2 among them.

use super::Architecture;
use crate::config::{Activation, EncoderConfig, Pooling};
use crate::import::{gguf::Gguf, hf::Fields, tensor::Place};
use crate::{Error, ModelConfig};

pub(super) const BERT: Architecture = Architecture {
    name: "bert",
    model_type: "bert",
    gguf: "bert",
    read_config: |fields, config| encoder(fields, config, 0),
    read_gguf: encoder_of_gguf,
    published,
    gguf_place,
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
fn published(name: &str) -> Option<String> {
    let name = name.strip_prefix("bert.").or_else(|| name.strip_prefix("roberta.")).unwrap_or(name);
    let left_out = ["pooler.", "cls.", "lm_head.", "classifier."].iter().any(|part| name.starts_with(part));
    if left_out || name.ends_with("position_ids") || name.ends_with("token_type_ids") {
        return None;
    }
    // The first of its kind was published with TensorFlow's words.
    let name = name.strip_suffix(".gamma").map(|path| format!("{path}.weight")).unwrap_or_else(|| name.to_owned());
    Some(name.strip_suffix(".beta").map(|path| format!("{path}.bias")).unwrap_or(name))
}

const GGUF_MEAN: usize = 1;
const GGUF_FIRST: usize = 2;

/// llama.cpp has the whole family under one name: its converter cuts off the rows before a RoBERTa's first position.
fn encoder_of_gguf(gguf: &Gguf, config: &mut ModelConfig) -> Result<(), Error> {
    let rows = |tensor: &str| {
        let found = gguf.tensors.iter().find(|info| info.name == tensor).and_then(|info| info.shape.first());
        found.copied().ok_or_else(|| Error::BadModel(format!("GGUF: tensor {tensor} is missing")))
    };
    let pooling = match gguf.size("pooling_type")? {
        None | Some(GGUF_MEAN) => Pooling::Mean,
        Some(GGUF_FIRST) => Pooling::First,
        Some(other) => {
            let runs = format!("this version runs {GGUF_MEAN} (mean) and {GGUF_FIRST} (first token)");
            return Err(Error::Unsupported(format!("GGUF: bert.pooling_type {other}; {runs}")));
        }
    };
    let positions = rows("position_embd.weight")?;
    config.rms_norm_eps = gguf.number("attention.layer_norm_epsilon")?.unwrap_or(1e-12);
    config.tied_embedding = true;
    config.context_length = config.context_length.min(positions);
    config.variant.activation = Activation::Gelu;
    config.variant.biases = Default::default();
    config.variant.encoder = Some(EncoderConfig {
        positions,
        position_offset: 0,
        token_types: rows("token_types.weight")?,
        pooling,
        normalise: true,
    });
    Ok(())
}

fn gguf_place(_: &ModelConfig, canonical: &str) -> Option<Place> {
    let (part, kind) = canonical.rsplit_once('.')?;
    let name = match part {
        "embeddings.word_embeddings" => "token_embd",
        "embeddings.position_embeddings" => "position_embd",
        "embeddings.token_type_embeddings" => "token_types",
        "embeddings.LayerNorm" => "token_embd_norm",
        _ => return gguf_place_in_layer(part.strip_prefix("encoder.layer.")?, kind),
    };
    Some(Place::whole(format!("{name}.{kind}")))
}

fn gguf_place_in_layer(part: &str, kind: &str) -> Option<Place> {
    let (layer, part) = part.split_once('.')?;
    let name = match part {
        "attention.self.query" => "attn_q",
        "attention.self.key" => "attn_k",
        "attention.self.value" => "attn_v",
        "attention.output.dense" => "attn_output",
        "attention.output.LayerNorm" => "attn_output_norm",
        "intermediate.dense" => "ffn_up",
        "output.dense" => "ffn_down",
        "output.LayerNorm" => "layer_output_norm",
        _ => return None,
    };
    Some(Place::whole(format!("blk.{layer}.{name}.{kind}")))
}
