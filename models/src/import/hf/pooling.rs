//! What sentence-transformers says of an encoder beside its own configuration: `modules.json`, the pooling module's
//! `config.json`, and `sentence_bert_config.json`. Without them: the mean, normalised.

use super::read_json;
use crate::{Error, ModelConfig, config::Pooling};
use serde_json::Value as Json;
use std::path::Path;

/// Completes an encoder's configuration; of other models nothing is read.
pub(super) fn read(folder: &Path, config: &mut ModelConfig) -> Result<(), Error> {
    let Some(mut encoder) = config.variant.encoder.clone() else { return Ok(()) };
    if let Some(file) = read_json(folder, "sentence_bert_config.json")?
        && let Some(most) = file.get("max_seq_length").filter(|most| !most.is_null())
    {
        let most = most.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
        let bad = || Error::BadModel("sentence_bert_config.json: max_seq_length: no positive number".into()).at(folder);
        config.context_length = config.context_length.min(most.ok_or_else(bad)?);
    }
    if let Some(modules) = modules(folder)? {
        encoder.normalise = modules.iter().any(|(kind, _)| kind.ends_with("Normalize"));
        if let Some((_, path)) = modules.iter().find(|(kind, _)| kind.ends_with("Pooling")) {
            encoder.pooling = pooling(folder, path)?;
        }
    }
    config.variant.encoder = Some(encoder);
    config.check("config.json").map_err(|error| error.at(folder))
}

/// The modules' kinds and folders.
fn modules(folder: &Path) -> Result<Option<Vec<(String, String)>>, Error> {
    let path = folder.join("modules.json");
    let Some(bytes) = super::super::map::read_small_if_any(&path, 1 << 20)? else { return Ok(None) };
    let list: Vec<Json> =
        serde_json::from_slice(&bytes).map_err(|error| Error::BadModel(format!("{}: {error}", path.display())))?;
    let text = |module: &Json, key: &str| module.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
    let modules: Vec<_> = list.iter().map(|module| (text(module, "type"), text(module, "path"))).collect();
    match modules.iter().find(|(kind, _)| !["Transformer", "Pooling", "Normalize"].iter().any(|k| kind.ends_with(k))) {
        None => Ok(Some(modules)),
        Some((kind, _)) => {
            Err(Error::Unsupported(format!("modules.json: `{kind}`, a part this version does not run")).at(folder))
        }
    }
}

fn pooling(folder: &Path, path: &str) -> Result<Pooling, Error> {
    // The path is the file's word; only a plain name stays inside the folder.
    let plain = !path.is_empty() && path.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let file = if plain { read_json(&folder.join(path), "config.json")? } else { None };
    let file = file
        .ok_or_else(|| Error::BadModel(format!("modules.json: pooling in {path:?} has no config.json")).at(folder))?;
    let on = |key: &str| file.get(key).and_then(Json::as_bool).unwrap_or(false);
    match (on("pooling_mode_mean_tokens"), on("pooling_mode_cls_token")) {
        (true, false) => Ok(Pooling::Mean),
        (false, true) => Ok(Pooling::First),
        _ => {
            Err(Error::Unsupported(format!("{path}/config.json: this version pools by the mean or by the first token"))
                .at(folder))
        }
    }
}
