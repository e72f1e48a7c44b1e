//! `config.json` → [`ModelConfig`], as written by transformers 5 (`rope_parameters`) and before (`rope_theta`, `rope_scaling`).

use crate::{Architecture, Error, ModelConfig, Rope, RopeScaling};
use serde_json::Value as Json;

const CONTEXT_DEFAULT: usize = 2048;
const THETA_DEFAULT: f64 = 10_000.0;
const EPSILON_DEFAULT: f64 = 1e-6;

/// Keys that say by their presence that more than a text decoder is meant.
const FOREIGN: [(&str, &str); 5] = [
    ("vision_config", "a vision model"),
    ("audio_config", "an audio model"),
    ("text_config", "a model of several modalities"),
    ("quantization_config", "weights quantised by another tool; take the original, or a .gguf"),
    ("num_local_experts", "a mixture of experts"),
];

/// Reads the object of a `config.json`.
pub(super) fn parse(json: &Json) -> Result<ModelConfig, Error> {
    let fields = Fields(json);
    let architecture = architecture(&fields)?;
    refuse_variants(&fields)?;
    let hidden_size = fields.needed("hidden_size")?;
    let heads = fields.needed("num_attention_heads")?;
    let head_dim = match fields.size("head_dim")? {
        Some(n) => n,
        None if heads > 0 && hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => return Err(bad("num_attention_heads", format_args!("{heads} do not divide {hidden_size}"))),
    };
    let context_length = fields.size("max_position_embeddings")?.unwrap_or(CONTEXT_DEFAULT);
    let config = ModelConfig {
        architecture,
        vocab_size: fields.needed("vocab_size")?,
        hidden_size,
        intermediate_size: fields.needed("intermediate_size")?,
        layers: fields.needed("num_hidden_layers")?,
        heads,
        kv_heads: fields.size("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        rms_norm_eps: fields.number("rms_norm_eps")?.unwrap_or(EPSILON_DEFAULT),
        rope: rope(&fields, context_length)?,
        context_length,
        tied_embedding: fields.flag("tie_word_embeddings")?.unwrap_or(false),
    };
    config.check("config.json")?;
    Ok(config)
}

fn architecture(fields: &Fields) -> Result<Architecture, Error> {
    for (key, what) in FOREIGN {
        if fields.get(key).is_some() {
            return Err(Error::Unsupported(format!("config.json: {key}: {what}; this version runs: llama")));
        }
    }
    match fields.text("model_type")? {
        Some("llama") => Ok(Architecture::Llama),
        Some(other) => Err(Error::Unsupported(format!("model_type `{other}`; this version runs: llama"))),
        None => Err(bad("model_type", "is missing")),
    }
}

fn refuse_variants(fields: &Fields) -> Result<(), Error> {
    for key in ["attention_bias", "mlp_bias"] {
        if fields.flag(key)?.unwrap_or(false) {
            return Err(Error::Unsupported(format!("config.json: {key}; this version runs Llama without biases")));
        }
    }
    match fields.text("hidden_act")? {
        None | Some("silu" | "swish") => Ok(()),
        Some(other) => Err(Error::Unsupported(format!("config.json: hidden_act `{other}`; this version runs silu"))),
    }
}

/// New style: one object, or one for each kind of layer. Old style: two keys.
fn rope(fields: &Fields, context_length: usize) -> Result<Rope, Error> {
    let new = fields.object("rope_parameters")?;
    if let Some(parameters) = &new {
        if let Some(nested) = single_nested(parameters)? {
            return rope_of(&Fields(nested), fields, context_length);
        }
        return rope_of(parameters, fields, context_length);
    }
    match fields.object("rope_scaling")? {
        Some(scaling) => rope_of(&scaling, fields, context_length),
        None => Ok(Rope { theta: fields.number("rope_theta")?.unwrap_or(THETA_DEFAULT), scaling: RopeScaling::None }),
    }
}

/// The parameters of the one kind of layer, where they are nested by kind.
fn single_nested<'a>(parameters: &Fields<'a>) -> Result<Option<&'a Json>, Error> {
    let kinds = parameters.0.as_object().into_iter().flatten().filter(|(_, value)| value.is_object());
    let mut each = kinds.map(|(_, value)| value);
    let Some(first) = each.next() else { return Ok(None) };
    if each.any(|other| other != first) {
        let what = "config.json: rope_parameters differ from one kind of layer to another";
        return Err(Error::Unsupported(format!("{what}; this version runs one kind")));
    }
    Ok(Some(first))
}

fn rope_of(parameters: &Fields, fields: &Fields, context_length: usize) -> Result<Rope, Error> {
    let theta = match parameters.number("rope_theta")? {
        None => fields.number("rope_theta")?.unwrap_or(THETA_DEFAULT),
        Some(theta) => theta,
    };
    if parameters.number("partial_rotary_factor")?.is_some_and(|factor| factor != 1.0) {
        return Err(Error::Unsupported("config.json: partial_rotary_factor: a partial rotation".into()));
    }
    let kind = match parameters.text("rope_type")? {
        None => parameters.text("type")?.unwrap_or("default"),
        Some(kind) => kind,
    };
    let needed = |key: &str| parameters.number(key)?.ok_or_else(|| bad(key, "is missing in the rope parameters"));
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: needed("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: needed("factor")?,
            low_freq_factor: needed("low_freq_factor")?,
            high_freq_factor: needed("high_freq_factor")?,
            original_context: parameters.size("original_max_position_embeddings")?.unwrap_or(context_length),
        },
        other => {
            let runs = "this version runs default, linear and llama3";
            return Err(Error::Unsupported(format!("config.json: rope type `{other}`; {runs}")));
        }
    };
    Ok(Rope { theta, scaling })
}

/// A JSON object whose fields are asked for by type; `null` is absent.
struct Fields<'a>(&'a Json);

impl<'a> Fields<'a> {
    fn get(&self, key: &str) -> Option<&'a Json> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn typed<T>(&self, key: &str, kind: &str, read: impl Fn(&'a Json) -> Option<T>) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| bad(key, format_args!("{value} is no {kind}")))
    }

    fn size(&self, key: &str) -> Result<Option<usize>, Error> {
        self.typed(key, "whole number", |value| value.as_u64().and_then(|n| usize::try_from(n).ok()))
    }

    fn needed(&self, key: &str) -> Result<usize, Error> {
        self.size(key)?.ok_or_else(|| bad(key, "is missing"))
    }

    fn number(&self, key: &str) -> Result<Option<f64>, Error> {
        self.typed(key, "number", Json::as_f64)
    }

    fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "boolean", Json::as_bool)
    }

    fn text(&self, key: &str) -> Result<Option<&'a str>, Error> {
        self.typed(key, "string", Json::as_str)
    }

    fn object(&self, key: &str) -> Result<Option<Fields<'a>>, Error> {
        self.typed(key, "object", |value| value.is_object().then_some(Fields(value)))
    }
}

fn bad(key: &str, reason: impl std::fmt::Display) -> Error {
    Error::BadModel(format!("config.json: {key}: {reason}"))
}
