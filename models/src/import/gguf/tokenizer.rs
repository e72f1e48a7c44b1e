//! GGUF metadata → `tokenizer.json`: byte-level BPE with the pre-tokenizer that the file names.
//!
//! Two tables of facts live here, both llama.cpp's (`llama-vocab.cpp`): token types, and what a pre-tokenizer's name means.

use super::Gguf;
use crate::{Error, Tokenizer};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Value as Json, json};
use std::collections::HashMap;

/// Most tokens; ids are 32 bits, and no vocabulary comes near.
const TOKENS_MAX: usize = 1 << 22;

/// Token types as numbered in `tokenizer.ggml.token_type`.
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// How text is cut before BPE, how it is normalised, and two habits that go with the name.
#[derive(Clone, Copy)]
struct Pre {
    /// Applied one after the other; matches stand alone, what lies between stays whole.
    cuts: &'static [&'static str],
    /// The byte-level step cuts by GPT-2's expression as well.
    gpt2_cut: bool,
    nfc: bool,
    /// A word that is in the vocabulary is one token whatever the merges say.
    ignore_merges: bool,
    /// Where the file does not say.
    add_bos: bool,
}

const PLAIN: Pre = Pre { cuts: &[], gpt2_cut: false, nfc: false, ignore_merges: false, add_bos: false };

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

fn pre_of(name: &str) -> Result<Pre, Error> {
    Ok(match name {
        "llama-bpe" | "llama3" | "llama-v3" => Pre { cuts: &[LLAMA3], ignore_merges: true, add_bos: true, ..PLAIN },
        "qwen2" | "deepseek-r1-qwen" => Pre { cuts: &[QWEN2], nfc: true, ..PLAIN },
        "gpt-2" | "phi-2" | "olmo" => Pre { gpt2_cut: true, ..PLAIN },
        // Every numeric character of Unicode on its own, not only 0 to 9.
        "smollm" | "starcoder" | "refact" => Pre { cuts: &[r"\p{N}"], gpt2_cut: true, ..PLAIN },
        "default" => Pre { cuts: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"], ..PLAIN },
        other => {
            let known = "llama-bpe, llama3, qwen2, gpt-2, phi-2, olmo, smollm, starcoder, refact and default";
            return Err(Error::Unsupported(format!("GGUF: tokenizer.ggml.pre `{other}`; known are {known}")));
        }
    })
}

/// The bytes of a `tokenizer.json`, loaded once to see that they work.
pub(super) fn rebuild(gguf: &Gguf) -> Result<Vec<u8>, Error> {
    match gguf.string("tokenizer.ggml.model")? {
        Some("gpt2") => {}
        Some(other) => {
            return Err(Error::Unsupported(format!("GGUF: tokenizer.ggml.model `{other}`; rebuilt is gpt2 (BPE)")));
        }
        None => return Err(Error::BadModel("GGUF: tokenizer.ggml.model is missing".into())),
    }
    let pre = pre_of(gguf.string("tokenizer.ggml.pre")?.unwrap_or("default"))?;
    let tokens = strings(gguf, "tokenizer.ggml.tokens")?;
    if tokens.len() > TOKENS_MAX {
        let count = tokens.len();
        return Err(Error::BadModel(format!("GGUF: tokenizer.ggml.tokens: {count} tokens, at most {TOKENS_MAX}")));
    }
    refuse_twins(tokens)?;
    let file = TokenizerFile {
        version: "1.0",
        added_tokens: added_tokens(gguf, tokens)?,
        normalizer: pre.nfc.then(|| json!({"type": "NFC"})),
        pre_tokenizer: pre_tokenizer(pre),
        post_processor: post_processor(gguf, tokens, pre)?,
        decoder: byte_level(false),
        model: Bpe {
            kind: "BPE",
            byte_fallback: false,
            ignore_merges: pre.ignore_merges,
            vocab: Vocabulary(tokens),
            merges: merges(gguf)?,
        },
    };
    let bytes = serde_json::to_vec(&file).expect("strings and numbers serialise");
    Tokenizer::from_json(&bytes)?;
    Ok(bytes)
}

#[derive(Serialize)]
struct TokenizerFile<'a> {
    version: &'static str,
    added_tokens: Vec<Json>,
    normalizer: Option<Json>,
    pre_tokenizer: Json,
    post_processor: Option<Json>,
    decoder: Json,
    model: Bpe<'a>,
}

#[derive(Serialize)]
struct Bpe<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: Vocabulary<'a>,
    merges: Vec<(&'a str, &'a str)>,
}

/// Serialises as token → id.
struct Vocabulary<'a>(&'a [String]);

impl Serialize for Vocabulary<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (id, token) in self.0.iter().enumerate() {
            map.serialize_entry(token, &id)?;
        }
        map.end()
    }
}

fn strings<'a>(gguf: &'a Gguf, key: &str) -> Result<&'a [String], Error> {
    let value = gguf.metadata.get(key).ok_or_else(|| Error::BadModel(format!("GGUF: {key} is missing")))?;
    value.as_strings().ok_or_else(|| Error::BadModel(format!("GGUF: {key} is no list of strings")))
}

fn refuse_twins(tokens: &[String]) -> Result<(), Error> {
    let mut seen = HashMap::with_capacity(tokens.len());
    for (id, token) in tokens.iter().enumerate() {
        if let Some(first) = seen.insert(token, id) {
            let place = format!("GGUF: tokenizer.ggml.tokens: ids {first} and {id}");
            return Err(Error::BadModel(format!("{place} are both {token:?}")));
        }
    }
    Ok(())
}

/// Tokens found in text before any cutting: control tokens, and those the makers added.
fn added_tokens(gguf: &Gguf, tokens: &[String]) -> Result<Vec<Json>, Error> {
    let Some(value) = gguf.metadata.get("tokenizer.ggml.token_type") else { return Ok(Vec::new()) };
    let types = value.as_integers().filter(|types| types.len() == tokens.len()).ok_or_else(|| {
        Error::BadModel(format!("GGUF: tokenizer.ggml.token_type is no list of {} integers", tokens.len()))
    })?;
    let added = types.iter().zip(tokens).enumerate();
    Ok(added
        .filter(|(_, (kind, content))| [UNKNOWN, CONTROL, USER_DEFINED].contains(kind) && !content.is_empty())
        .map(|(id, (kind, content))| {
            json!({
                "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *kind != USER_DEFINED,
            })
        })
        .collect())
}

fn byte_level(gpt2_cut: bool) -> Json {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": gpt2_cut})
}

fn pre_tokenizer(pre: Pre) -> Json {
    let mut steps: Vec<Json> = Vec::new();
    for cut in pre.cuts {
        steps.push(json!({"type": "Split", "pattern": {"Regex": cut}, "behavior": "Isolated", "invert": false}));
    }
    steps.push(byte_level(pre.gpt2_cut));
    json!({"type": "Sequence", "pretokenizers": steps})
}

/// Adds BOS before and EOS after, where the file asks for it.
fn post_processor(gguf: &Gguf, tokens: &[String], pre: Pre) -> Result<Option<Json>, Error> {
    let special = |word: &str, wanted: bool| -> Result<Option<(u32, &String)>, Error> {
        let id = if wanted { gguf.token(word)? } else { None };
        id.map(|id| {
            let missing = || Error::BadModel(format!("GGUF: tokenizer.ggml.{word}_token_id: {id} is no token"));
            tokens.get(id as usize).map(|text| (id, text)).ok_or_else(missing)
        })
        .transpose()
    };
    let bos = special("bos", gguf.boolean("tokenizer.ggml.add_bos_token")?.unwrap_or(pre.add_bos))?;
    let eos = special("eos", gguf.boolean("tokenizer.ggml.add_eos_token")?.unwrap_or(false))?;
    if bos.is_none() && eos.is_none() {
        return Ok(None);
    }
    let piece = |text: &str| json!({"SpecialToken": {"id": text, "type_id": 0}});
    let mut single: Vec<Json> = bos.iter().map(|(_, text)| piece(text)).collect();
    single.push(json!({"Sequence": {"id": "A", "type_id": 0}}));
    single.extend(eos.iter().map(|(_, text)| piece(text)));
    let named: serde_json::Map<String, Json> = bos
        .iter()
        .chain(&eos)
        .map(|(id, text)| (text.to_string(), json!({"id": text, "ids": [id], "tokens": [text]})))
        .collect();
    let pair = json!([{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]);
    Ok(Some(json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": named})))
}

fn merges(gguf: &Gguf) -> Result<Vec<(&str, &str)>, Error> {
    let merges = strings(gguf, "tokenizer.ggml.merges")?;
    merges
        .iter()
        .enumerate()
        .map(|(rank, merge)| {
            // The first half may itself begin with a space.
            let space = merge.char_indices().skip(1).find(|(_, c)| *c == ' ');
            space.map(|(at, _)| (&merge[..at], &merge[at + 1..])).ok_or_else(|| {
                Error::BadModel(format!("GGUF: tokenizer.ggml.merges: entry {rank}, {merge:?}, is no pair"))
            })
        })
        .collect()
}
