//! A Hugging Face folder → a [`Source`]. Reads only files directly in the folder, by names of its own or checked ones.

mod config;
mod fields;
mod generation;
mod pooling;
mod rope;
mod template;
mod weights;

pub(crate) use fields::Fields;
pub(crate) use rope::{YARN_FAST, YARN_SLOW, attention_factor, yarn_factor};

use super::{Source, map};
use crate::{
    Error,
    tokenizer::{TOKENIZER_BYTES_MAX, Tokenizer},
};
use serde_json::Value as Json;
use std::path::Path;

/// Largest of the small JSON files, in bytes.
const JSON_BYTES_MAX: u64 = 64 << 20;

/// Opens the folder and checks all but the weights' values.
pub(crate) fn open(folder: &Path) -> Result<Source, Error> {
    refuse_adapter(folder)?;
    let json = read_json(folder, "config.json")?.ok_or_else(|| {
        Error::BadModel(format!("{}: config.json is missing: no Hugging Face model", folder.display()))
    })?;
    let (architecture, mut config) = config::parse(&json).map_err(|error| error.at(folder))?;
    let fp8_block = config::fp8_block(&json).map_err(|error| error.at(folder))?;
    pooling::read(folder, &mut config)?;
    let generation = generation::parse(&json, read_json(folder, "generation_config.json")?.as_ref());
    let tensors = weights::open(folder, architecture, &config, fp8_block).map_err(|error| error.at(folder))?;
    Ok(Source {
        generation: generation.map_err(|error| error.at(folder))?,
        tokenizer: tokenizer(folder)?.into(),
        templates: template::read(folder)?,
        config,
        tensors,
    })
}

fn refuse_adapter(folder: &Path) -> Result<(), Error> {
    if folder.join("adapter_config.json").exists() {
        let folder = folder.display();
        return Err(Error::Unsupported(format!(
            "{folder}: adapter_config.json: a LoRA adapter; merge it into its model"
        )));
    }
    Ok(())
}

fn read_json(folder: &Path, name: &str) -> Result<Option<Json>, Error> {
    let path = folder.join(name);
    let Some(bytes) = map::read_small_if_any(&path, JSON_BYTES_MAX)? else { return Ok(None) };
    let json: Json =
        serde_json::from_slice(&bytes).map_err(|error| Error::BadModel(format!("{}: {error}", path.display())))?;
    if !json.is_object() {
        return Err(Error::BadModel(format!("{}: not a JSON object", path.display())));
    }
    Ok(Some(json))
}

/// The file as it is, loaded once to see that it works.
fn tokenizer(folder: &Path) -> Result<Vec<u8>, Error> {
    let path = folder.join("tokenizer.json");
    let bytes = map::read_small_if_any(&path, TOKENIZER_BYTES_MAX)?.ok_or_else(|| {
        Error::BadModel(format!("{}: missing (other kinds of tokenizer are not read)", path.display()))
    })?;
    Tokenizer::from_json(&bytes).map_err(|error| error.at(folder))?;
    Ok(bytes)
}
