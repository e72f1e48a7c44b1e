//! The object of a `config.json`, whose fields are asked for by type; `null` is absent.

use super::rope;
use crate::config::Sliding;
use crate::{Error, Rope};
use serde_json::Value as Json;

/// A JSON object, and the architecture's values of two keys that are asked for in several places.
pub(crate) struct Fields<'a> {
    pub json: &'a Json,
    pub theta_default: f64,
    pub context_default: usize,
}

impl<'a> Fields<'a> {
    /// Where the architecture is not known yet.
    pub fn of(json: &'a Json) -> Self {
        Self { json, theta_default: 0.0, context_default: 0 }
    }

    /// Most tokens the model was made for.
    pub fn context_length(&self) -> Result<usize, Error> {
        Ok(self.size("max_position_embeddings")?.unwrap_or(self.context_default))
    }

    pub fn get(&self, key: &str) -> Option<&'a Json> {
        self.json.get(key).filter(|value| !value.is_null())
    }

    /// The key is there, be it with `null`.
    pub fn has(&self, key: &str) -> bool {
        self.json.get(key).is_some()
    }

    fn typed<T>(&self, key: &str, kind: &str, read: impl Fn(&'a Json) -> Option<T>) -> Result<Option<T>, Error> {
        let Some(value) = self.get(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| bad(key, format_args!("{value} is no {kind}")))
    }

    pub fn size(&self, key: &str) -> Result<Option<usize>, Error> {
        self.typed(key, "whole number", size)
    }

    pub fn sizes(&self, key: &str) -> Result<Option<Vec<usize>>, Error> {
        self.typed(key, "list of whole numbers", |value| value.as_array()?.iter().map(size).collect())
    }

    pub fn needed(&self, key: &str) -> Result<usize, Error> {
        self.size(key)?.ok_or_else(|| bad(key, "is missing"))
    }

    pub fn number(&self, key: &str) -> Result<Option<f64>, Error> {
        self.typed(key, "number", Json::as_f64)
    }

    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, Error> {
        self.typed(key, "list of numbers", |value| value.as_array()?.iter().map(Json::as_f64).collect())
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        self.typed(key, "boolean", Json::as_bool)
    }

    /// The key is there with `true`.
    pub fn is_on(&self, key: &str) -> bool {
        self.get(key) == Some(&Json::Bool(true))
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>, Error> {
        self.typed(key, "string", Json::as_str)
    }

    pub fn object(&self, key: &str) -> Result<Option<Fields<'a>>, Error> {
        let of = |json: &'a Json| json.is_object().then_some(Fields { json, ..*self });
        self.typed(key, "object", of)
    }

    /// Which layers slide, by `layer_types`.
    pub fn layer_kinds(&self, layers: usize) -> Result<Option<Vec<bool>>, Error> {
        let Some(kinds) = self.get("layer_types") else { return Ok(None) };
        let kinds = kinds.as_array().filter(|kinds| kinds.len() == layers);
        let kinds = kinds.ok_or_else(|| bad("layer_types", format_args!("is no list of {layers} kinds")))?;
        let slides = |kind: &Json| match kind.as_str() {
            Some("full_attention") => Ok(false),
            Some("sliding_attention") => Ok(true),
            _ => {
                let runs = "this version runs full_attention and sliding_attention";
                Err(Error::Unsupported(format!("config.json: layer_types: {kind}; {runs}")))
            }
        };
        kinds.iter().map(slides).collect::<Result<_, _>>().map(Some)
    }

    /// Qwen's way: a switch, and the first layers see everything.
    pub fn upper_layers_sliding(&self, layers: usize) -> Result<Option<Sliding>, Error> {
        let window = self.size("sliding_window")?.filter(|_| self.is_on("use_sliding_window"));
        let Some(window) = window else { return Ok(None) };
        let full = self.size("max_window_layers")?.unwrap_or(layers);
        let slides = self.layer_kinds(layers)?.unwrap_or_else(|| (0..layers).map(|layer| layer >= full).collect());
        Ok(slides.contains(&true).then_some(Sliding { window, layers: slides, rope: None }))
    }

    /// The rotation of one kind of layer, where the rotations are nested by kind.
    pub fn rope_of_kind(&self, kind: &str) -> Result<Option<Rope>, Error> {
        rope::of_kind(self, kind)
    }
}

fn size(value: &Json) -> Option<usize> {
    value.as_u64().and_then(|n| usize::try_from(n).ok())
}

pub(super) fn bad(key: &str, reason: impl std::fmt::Display) -> Error {
    Error::BadModel(format!("config.json: {key}: {reason}"))
}
