//! `t5`: SentencePiece's Unigram, as T5 and the multilingual encoders have it.

use super::{Around, Kind, SPACE_MARK, TokenizerFile, Vocabulary, post_processor};
use crate::{Error, import::gguf::Gguf};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value as Json, json};

pub(super) fn rebuild(gguf: &Gguf, vocabulary: &Vocabulary) -> Result<Vec<u8>, Error> {
    let scores = vocabulary.scores(gguf)?;
    let prefix = gguf.boolean("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let pieces: Vec<(&str, f64)> = vocabulary.iter().map(|(id, piece, _)| (piece, scores[id])).collect();
    let scheme = if prefix { "always" } else { "never" };
    let file = TokenizerFile {
        version: TokenizerFile::<()>::VERSION,
        added_tokens: vocabulary.added_tokens(),
        normalizer: normalizer(gguf)?,
        pre_tokenizer: Some(metaspace(scheme)),
        post_processor: post_processor(gguf, vocabulary.tokens, Around { bos: false, eos: true })?,
        decoder: metaspace(scheme),
        model: json!({
            "type": "Unigram", "unk_id": vocabulary.unknown(gguf)?, "vocab": pieces,
            "byte_fallback": vocabulary.has(Kind::Byte),
        }),
    };
    Ok(file.into_bytes())
}

fn metaspace(scheme: &str) -> Json {
    json!({"type": "Metaspace", "replacement": SPACE_MARK, "prepend_scheme": scheme, "split": true})
}

/// The makers' table of replacements, then white space.
fn normalizer(gguf: &Gguf) -> Result<Option<Json>, Error> {
    const KEY: &str = "tokenizer.ggml.precompiled_charsmap";
    let mut steps = Vec::new();
    if let Some(value) = gguf.metadata.get(KEY) {
        let bytes = value.as_integers().map(|all| all.iter().map(|&byte| byte as u8).collect::<Vec<u8>>());
        let bytes = bytes.ok_or_else(|| Error::BadModel(format!("GGUF: {KEY} is no list of bytes")))?;
        steps.push(json!({"type": "Precompiled", "precompiled_charsmap": STANDARD.encode(bytes)}));
    }
    if gguf.boolean("tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false) {
        steps.push(json!({"type": "Strip", "strip_left": true, "strip_right": true}));
        steps.push(json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}));
    }
    Ok((!steps.is_empty()).then(|| json!({"type": "Sequence", "normalizers": steps})))
}
