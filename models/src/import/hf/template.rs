//! The chat template of a Hugging Face folder: `chat_template.jinja`, else `tokenizer_config.json`.

use super::super::{map, template::Templates};
use crate::Error;
use serde_json::Value as Json;
use std::path::Path;

const TEMPLATE_BYTES_MAX: u64 = 16 << 20;
const TOKEN_WORDS: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"];

pub(super) fn read(folder: &Path) -> Result<Templates, Error> {
    let config = super::read_json(folder, "tokenizer_config.json")?.unwrap_or_default();
    let mut templates = Templates::default();
    match config.get("chat_template") {
        None | Some(Json::Null) => {}
        Some(Json::String(text)) => {
            templates.by_name.insert("default".into(), text.clone());
        }
        Some(Json::Array(named)) => {
            for entry in named {
                let text = |key: &str| entry.get(key).and_then(Json::as_str).map(str::to_owned);
                let (Some(name), Some(text)) = (text("name"), text("template")) else {
                    return Err(bad(folder, "chat_template: an entry without name or template"));
                };
                templates.by_name.insert(name, text);
            }
        }
        Some(_) => return Err(bad(folder, "chat_template: neither a string nor a list")),
    }
    let path = folder.join("chat_template.jinja");
    if let Some(bytes) = map::read_small_if_any(&path, TEMPLATE_BYTES_MAX)? {
        let text = String::from_utf8(bytes);
        let text = text.map_err(|error| Error::BadModel(format!("{}: no UTF-8: {error}", path.display())))?;
        templates.by_name.insert("default".into(), text);
    }
    for word in TOKEN_WORDS {
        if let Some(text) = config.get(word).and_then(token_text) {
            templates.tokens.insert(word.into(), text.to_owned());
        }
    }
    Ok(templates)
}

/// A token is written as its text, or as an object with its `content`.
fn token_text(value: &Json) -> Option<&str> {
    value.as_str().or_else(|| value.get("content").and_then(Json::as_str))
}

fn bad(folder: &Path, reason: &str) -> Error {
    Error::BadModel(format!("{}: tokenizer_config.json: {reason}", folder.display()))
}
