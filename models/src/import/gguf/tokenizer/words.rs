//! `bert`: WordPiece. llama.cpp marks the pieces that begin a word; WordPiece marks those that do not.

use super::{Kind, SPACE_MARK, Special, TokenizerFile, Vocabulary, around};
use crate::{Error, import::gguf::Gguf};
use serde_json::{Map, Value as Json, json};

const CONTINUING: &str = "##";
/// Longer words are unknown, as in BERT's own code.
const WORD_CHARS_MAX: usize = 100;
/// BERT's own, where the file does not say: every vocabulary of this kind began with its.
const UNKNOWN: &str = "[UNK]";

pub(super) fn rebuild(gguf: &Gguf, vocabulary: &Vocabulary) -> Result<Vec<u8>, Error> {
    let spelt: Vec<String> = vocabulary.iter().map(|(_, token, kind)| spelling(token, kind)).collect();
    let mut ids = Map::with_capacity(spelt.len());
    for (id, token) in spelt.iter().enumerate() {
        if let Some(first) = ids.insert(token.clone(), json!(id)) {
            let place = format!("GGUF: tokenizer.ggml.tokens: ids {first} and {id}");
            return Err(Error::BadModel(format!("{place} are both {token:?} in WordPiece")));
        }
    }
    let unknown = vocabulary.unknown(gguf)?.map_or(UNKNOWN, |id| &spelt[id]);
    let lowercase = gguf.boolean("tokenizer.ggml.normalizer.lowercase")?.unwrap_or(true);
    let strip_accents = gguf.boolean("tokenizer.ggml.normalizer.strip_accents")?.unwrap_or(lowercase);
    let before = Special::of(gguf, &spelt, &["cls", "bos"])?;
    let after = Special::of(gguf, &spelt, &["seperator", "separator", "eos"])?;
    let file = TokenizerFile {
        version: TokenizerFile::<()>::VERSION,
        added_tokens: vocabulary.added_tokens(),
        normalizer: Some(json!({
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
            "strip_accents": strip_accents, "lowercase": lowercase,
        })),
        pre_tokenizer: Some(json!({"type": "BertPreTokenizer"})),
        post_processor: around(before, after),
        decoder: json!({"type": "WordPiece", "prefix": CONTINUING, "cleanup": true}),
        model: json!({
            "type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": CONTINUING,
            "max_input_chars_per_word": WORD_CHARS_MAX, "vocab": Json::Object(ids),
        }),
    };
    Ok(file.into_bytes())
}

/// The token as WordPiece spells it.
fn spelling(token: &str, kind: Kind) -> String {
    match token.strip_prefix(SPACE_MARK) {
        _ if kind == Kind::Control || kind == Kind::Unknown => token.to_owned(),
        Some(word) => word.to_owned(),
        // Files made before token types were written for these.
        None if token.starts_with('[') && token.ends_with(']') && token.len() > 2 => token.to_owned(),
        None => format!("{CONTINUING}{token}"),
    }
}
