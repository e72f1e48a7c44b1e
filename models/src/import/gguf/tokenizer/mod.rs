//! GGUF metadata → `tokenizer.json`, loaded once to see that it works. A file for each kind of vocabulary.
//!
//! What stands here as fact is llama.cpp's (`llama-vocab.cpp`): token types, defaults, and habits that go with a name.

mod byte_level;
mod pieces;
mod unigram;
mod words;

use super::Gguf;
use crate::{Error, Tokenizer};
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Value as Json, json};
use std::collections::HashMap;

/// Most tokens; ids are 32 bits, and no vocabulary comes near.
const TOKENS_MAX: usize = 1 << 22;
/// Stands for a space in the vocabularies of SentencePiece.
const SPACE_MARK: &str = "▁";

/// What `tokenizer.ggml.token_type` says of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    fn of(number: i64) -> Self {
        match number {
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => Self::Normal,
        }
    }

    /// Found in text before any cutting.
    fn is_added(self) -> bool {
        matches!(self, Self::Unknown | Self::Control | Self::UserDefined)
    }
}

/// The bytes of a `tokenizer.json` that does what the file's vocabulary says.
///
/// # Errors
/// [`Error::BadModel`] names the key; [`Error::Unsupported`] a kind of vocabulary or a pre-tokenizer that is not known.
pub fn rebuild(gguf: &Gguf) -> Result<Vec<u8>, Error> {
    let vocabulary = Vocabulary::read(gguf)?;
    let bytes = match gguf.string("tokenizer.ggml.model")? {
        Some("gpt2") => byte_level::rebuild(gguf, &vocabulary),
        Some("llama") => pieces::rebuild(gguf, &vocabulary),
        Some("bert") => words::rebuild(gguf, &vocabulary),
        Some("t5") => unigram::rebuild(gguf, &vocabulary),
        Some(other) => {
            let known = "gpt2 (byte-level BPE), llama (SentencePiece BPE), t5 (Unigram) and bert (WordPiece)";
            Err(Error::Unsupported(format!("GGUF: tokenizer.ggml.model `{other}`; rebuilt are {known}")))
        }
        None => Err(Error::BadModel("GGUF: tokenizer.ggml.model is missing".into())),
    }?;
    Tokenizer::from_json(&bytes)?;
    Ok(bytes)
}

/// The ids of control and added tokens with one of these spellings.
pub(super) fn special_ids(gguf: &Gguf, spellings: &[&str]) -> Vec<u32> {
    let list = |key: &str| gguf.metadata.get(key);
    let tokens = list("tokenizer.ggml.tokens").and_then(|value| value.as_strings()).unwrap_or_default();
    let types = list("tokenizer.ggml.token_type").and_then(|value| value.as_integers()).unwrap_or_default();
    let found = (0u32..).zip(tokens.iter().zip(types)).filter(|(_, (token, number))| {
        matches!(Kind::of(**number), Kind::Control | Kind::UserDefined) && spellings.contains(&token.as_str())
    });
    found.map(|(id, _)| id).collect()
}

/// The tokens by id and what each of them is.
struct Vocabulary<'a> {
    tokens: &'a [String],
    kinds: Vec<Kind>,
}

impl<'a> Vocabulary<'a> {
    fn read(gguf: &'a Gguf) -> Result<Self, Error> {
        let tokens = strings(gguf, "tokenizer.ggml.tokens")?;
        if tokens.len() > TOKENS_MAX {
            let count = tokens.len();
            return Err(Error::BadModel(format!("GGUF: tokenizer.ggml.tokens: {count} tokens, at most {TOKENS_MAX}")));
        }
        refuse_twins(tokens)?;
        let kinds = match gguf.metadata.get("tokenizer.ggml.token_type") {
            None => vec![Kind::Normal; tokens.len()],
            Some(value) => {
                let types = value.as_integers().filter(|types| types.len() == tokens.len()).ok_or_else(|| {
                    let count = tokens.len();
                    Error::BadModel(format!("GGUF: tokenizer.ggml.token_type is no list of {count} integers"))
                })?;
                types.iter().map(|number| Kind::of(*number)).collect()
            }
        };
        Ok(Self { tokens, kinds })
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &'a str, Kind)> {
        self.tokens.iter().zip(&self.kinds).enumerate().map(|(id, (token, kind))| (id, token.as_str(), *kind))
    }

    fn has(&self, kind: Kind) -> bool {
        self.kinds.contains(&kind)
    }

    /// The unknown token's id: named, or the only one of its kind.
    fn unknown(&self, gguf: &Gguf) -> Result<Option<usize>, Error> {
        let named = gguf.token("unknown")?.map(|id| id as usize).filter(|id| *id < self.tokens.len());
        Ok(named.or_else(|| self.kinds.iter().position(|kind| *kind == Kind::Unknown)))
    }

    /// A number for each token.
    fn scores(&self, gguf: &'a Gguf) -> Result<&'a [f64], Error> {
        let scores = gguf.metadata.get("tokenizer.ggml.scores").and_then(|value| value.as_floats());
        scores.filter(|scores| scores.len() == self.tokens.len()).ok_or_else(|| {
            Error::BadModel(format!("GGUF: tokenizer.ggml.scores is no list of {} numbers", self.tokens.len()))
        })
    }

    /// Tokens found in text before any cutting: control tokens, and those the makers added.
    fn added_tokens(&self) -> Vec<Json> {
        let added = self.iter().filter(|(_, content, kind)| kind.is_added() && !content.is_empty());
        added.map(|(id, content, kind)| added_token(id, content, kind)).collect()
    }
}

fn added_token(id: usize, content: &str, kind: Kind) -> Json {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": kind != Kind::UserDefined,
    })
}

/// A `tokenizer.json` around the model `M`.
#[derive(Serialize)]
struct TokenizerFile<M> {
    version: &'static str,
    added_tokens: Vec<Json>,
    normalizer: Option<Json>,
    pre_tokenizer: Option<Json>,
    post_processor: Option<Json>,
    decoder: Json,
    model: M,
}

impl<M: Serialize> TokenizerFile<M> {
    const VERSION: &'static str = "1.0";

    fn into_bytes(self) -> Vec<u8> {
        serde_json::to_vec(&self).expect("strings and numbers serialise")
    }
}

/// A model of byte-pair encoding.
#[derive(Serialize)]
struct Bpe<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    unk_token: Option<&'a str>,
    fuse_unk: bool,
    byte_fallback: bool,
    ignore_merges: bool,
    vocab: Ids<'a>,
    merges: Vec<(&'a str, &'a str)>,
}

/// Serialises as token → id.
struct Ids<'a>(&'a [String]);

impl Serialize for Ids<'_> {
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

/// A token that is put before or after a text.
struct Special<'a> {
    id: u32,
    text: &'a str,
}

impl<'a> Special<'a> {
    /// The first of `words` for which the file has a `tokenizer.ggml.<word>_token_id`.
    fn of(gguf: &Gguf, tokens: &'a [String], words: &[&str]) -> Result<Option<Self>, Error> {
        for word in words {
            let Some(id) = gguf.token(word)? else { continue };
            let missing = || Error::BadModel(format!("GGUF: tokenizer.ggml.{word}_token_id: {id} is no token"));
            let text = tokens.get(id as usize).ok_or_else(missing)?;
            return Ok(Some(Self { id, text }));
        }
        Ok(None)
    }
}

/// What stands around a text, where the file does not say.
struct Around {
    bos: bool,
    eos: bool,
}

/// Adds BOS before and EOS after, where the file asks for it or `default` has it so.
fn post_processor(gguf: &Gguf, tokens: &[String], default: Around) -> Result<Option<Json>, Error> {
    let wanted = |word: &str, default| -> Result<bool, Error> {
        Ok(gguf.boolean(&format!("tokenizer.ggml.add_{word}_token"))?.unwrap_or(default))
    };
    let (mut before, mut after) = (None, None);
    if wanted("bos", default.bos)? {
        before = Special::of(gguf, tokens, &["bos"])?;
    }
    if wanted("eos", default.eos)? {
        after = Special::of(gguf, tokens, &["eos"])?;
    }
    Ok(around(before, after))
}

fn around(before: Option<Special>, after: Option<Special>) -> Option<Json> {
    if before.is_none() && after.is_none() {
        return None;
    }
    let piece = |special: &Special| json!({"SpecialToken": {"id": special.text, "type_id": 0}});
    let mut single: Vec<Json> = before.iter().map(piece).collect();
    single.push(json!({"Sequence": {"id": "A", "type_id": 0}}));
    single.extend(after.iter().map(piece));
    let named: serde_json::Map<String, Json> = before
        .iter()
        .chain(&after)
        .map(|Special { id, text }| (text.to_string(), json!({"id": text, "ids": [id], "tokens": [text]})))
        .collect();
    let pair = json!([{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]);
    Some(json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": named}))
}
