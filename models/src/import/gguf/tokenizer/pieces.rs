//! `llama`: SentencePiece's BPE. Its files have a score for each piece and no merges: a piece of a higher score is made first.

use super::{Around, Bpe, Ids, Kind, SPACE_MARK, TokenizerFile, Vocabulary, added_token, post_processor};
use crate::{Error, import::gguf::Gguf};
use serde_json::{Value as Json, json};
use std::{cmp::Reverse, collections::HashSet};

/// Longest piece that is taken apart, in bytes: each place where it can be cut is tried.
const PIECE_BYTES_MAX: usize = 1 << 10;

pub(super) fn rebuild(gguf: &Gguf, vocabulary: &Vocabulary) -> Result<Vec<u8>, Error> {
    let prefix = gguf.boolean("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let unknown = vocabulary.unknown(gguf)?;
    let file = TokenizerFile {
        version: TokenizerFile::<()>::VERSION,
        added_tokens: added_tokens(gguf, vocabulary)?,
        normalizer: Some(normalizer(prefix)),
        pre_tokenizer: None,
        post_processor: post_processor(gguf, vocabulary.tokens, Around { bos: true, eos: false })?,
        decoder: decoder(prefix),
        model: Bpe {
            kind: "BPE",
            unk_token: unknown.map(|id| vocabulary.tokens[id].as_str()),
            fuse_unk: true,
            byte_fallback: vocabulary.has(Kind::Byte),
            ignore_merges: false,
            vocab: Ids(vocabulary.tokens),
            merges: merges(vocabulary, vocabulary.scores(gguf)?)?,
        },
    };
    Ok(file.into_bytes())
}

fn normalizer(prefix: bool) -> Json {
    let mut steps = Vec::new();
    if prefix {
        steps.push(json!({"type": "Prepend", "prepend": SPACE_MARK}));
    }
    steps.push(json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE_MARK}));
    json!({"type": "Sequence", "normalizers": steps})
}

fn decoder(prefix: bool) -> Json {
    let mut steps = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE_MARK}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        steps.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": steps})
}

/// Phi-3's marks of turns swallow the white space after them, which no key of the file says: its makers' name does.
fn added_tokens(gguf: &Gguf, vocabulary: &Vocabulary) -> Result<Vec<Json>, Error> {
    let name = gguf.string("general.name")?.unwrap_or_default().to_lowercase();
    let phi3 = gguf.string("general.architecture")? == Some("phi3") || name.contains("phi-3") || name.contains("phi3");
    if !phi3 {
        return Ok(vocabulary.added_tokens());
    }
    let added = vocabulary.iter().filter(|(_, content, kind)| kind.is_added() && !content.is_empty());
    Ok(added
        .map(|(id, content, kind)| {
            let mut token = added_token(id, content, kind);
            token["rstrip"] = json!(!["<unk>", "<s>", "<|endoftext|>"].contains(&content));
            token
        })
        .collect())
}

/// A piece out of two that are in the vocabulary, by falling score.
fn merges<'a>(vocabulary: &Vocabulary<'a>, scores: &[f64]) -> Result<Vec<(&'a str, &'a str)>, Error> {
    let known: HashSet<&str> = vocabulary.tokens.iter().map(String::as_str).collect();
    let mut merges: Vec<(f64, &str, &str)> = Vec::new();
    for (id, piece, _) in vocabulary.iter().filter(|(_, _, kind)| *kind == Kind::Normal) {
        if !scores[id].is_finite() {
            return Err(Error::BadModel(format!("GGUF: tokenizer.ggml.scores: entry {id} is {}", scores[id])));
        }
        if piece.len() > PIECE_BYTES_MAX {
            let length = piece.len();
            return Err(Error::Unsupported(format!(
                "GGUF: tokenizer.ggml.tokens: entry {id} has {length} bytes, at most {PIECE_BYTES_MAX}"
            )));
        }
        for (cut, _) in piece.char_indices().skip(1) {
            let (left, right) = piece.split_at(cut);
            if known.contains(left) && known.contains(right) {
                merges.push((scores[id], left, right));
            }
        }
    }
    // Of one score, the longer first half comes first, as in the makers' conversions of these files.
    merges.sort_by(|a, b| {
        b.0.total_cmp(&a.0).then_with(|| Reverse(a.1.chars().count()).cmp(&Reverse(b.1.chars().count())))
    });
    Ok(merges.into_iter().map(|(_, left, right)| (left, right)).collect())
}
