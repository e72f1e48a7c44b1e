//! `tokenizer.json` → the parts of a tokenizer. Small parts go through a JSON tree, the vocabulary does not: loading is on the
//! way to the first token.

use super::{
    around,
    bpe::{Bpe, Rules, Tables},
    charsmap,
    cuts::Cuts,
    direct::Direct,
    words::Words,
};
use crate::Error;
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::Value as Json;
use tokenizers::{
    AddedToken, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    TokenizerImpl,
};

pub(super) type Inner =
    TokenizerImpl<Words, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// A tokenizer, and the short way through it where there is one; then it has no pre-tokenizer of its own.
pub(super) struct Assembled {
    pub inner: Inner,
    pub direct: Option<Direct>,
}

/// Truncation and padding are left out: a prompt is never cut or filled up behind the caller's back.
#[derive(Deserialize)]
struct File<M> {
    #[serde(default)]
    added_tokens: Vec<Added>,
    #[serde(default)]
    normalizer: Json,
    #[serde(default)]
    pre_tokenizer: Json,
    #[serde(default)]
    post_processor: Json,
    #[serde(default)]
    decoder: Json,
    model: M,
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    single_word: bool,
    #[serde(default)]
    lstrip: bool,
    #[serde(default)]
    rstrip: bool,
    normalized: Option<bool>,
    #[serde(default)]
    special: bool,
}

/// Reads the whole file; every fault names its part or place.
pub(super) fn parse(bytes: &[u8]) -> Result<Assembled, Error> {
    match serde_json::from_slice::<File<Bpe>>(bytes) {
        Ok(file) => assemble(file, Words::Bpe),
        // Only who is no BPE pays for a second look.
        Err(_) if is_of_crate(bytes) => {
            let file = serde_json::from_slice::<File<ModelWrapper>>(bytes);
            assemble(file.map_err(|error| bad(format_args!("{error}")))?, Words::Other)
        }
        Err(error) => Err(bad(format_args!("{error}"))),
    }
}

/// A file whose model is rules alone, and its vocabulary and merges.
pub(super) fn with_tables(rules: &[u8], tables: Tables) -> Result<Assembled, Error> {
    let file = serde_json::from_slice::<File<Rules>>(rules);
    assemble(file.map_err(|error| bad(format_args!("{error}")))?, |rules| Words::Bpe(Bpe::new(tables, rules)))
}

/// A file of byte-pair encoding as what [`with_tables`] takes; none of another model.
pub(super) fn to_tables(bytes: &[u8]) -> Result<Option<(Vec<u8>, Tables)>, Error> {
    let Ok(File { model, .. }) = serde_json::from_slice::<File<Bpe>>(bytes) else { return Ok(None) };
    let (tables, rules) = model.into_parts();
    let refused = |error: serde_json::Error| bad(format_args!("{error}"));
    // The rest is kept word for word.
    let mut file: serde_json::Map<String, Json> = serde_json::from_slice(bytes).map_err(refused)?;
    file.insert("model".into(), serde_json::to_value(rules).map_err(refused)?);
    Ok(Some((serde_json::to_vec(&file).map_err(refused)?, tables)))
}

/// The model is one that the tokenizers crate runs for us.
fn is_of_crate(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Kind {
        model: Model,
    }
    #[derive(Deserialize)]
    struct Model {
        #[serde(rename = "type")]
        kind: Option<String>,
        // Where old files leave the kind out, these tell.
        continuing_subword_prefix: Option<String>,
        merges: Option<IgnoredAny>,
    }
    let Ok(Kind { model }) = serde_json::from_slice::<Kind>(bytes) else { return false };
    match model.kind.as_deref() {
        Some(kind) => matches!(kind, "WordPiece" | "Unigram"),
        None => model.merges.is_none() && model.continuing_subword_prefix.is_some(),
    }
}

fn assemble<M>(file: File<M>, words: impl FnOnce(M) -> Words) -> Result<Assembled, Error> {
    charsmap::check(&file.normalizer).map_err(|reason| bad(format_args!("normalizer: {reason}")))?;
    let mut inner = Inner::new(words(file.model));
    inner.with_normalizer(part::<NormalizerWrapper>("normalizer", file.normalizer)?);
    inner.with_post_processor(post_processor(file.post_processor)?);
    inner.with_decoder(part::<DecoderWrapper>("decoder", file.decoder)?);
    add(&mut inner, file.added_tokens)?;
    let direct = Cuts::of(&file.pre_tokenizer).and_then(|cuts| Direct::of(&inner, cuts));
    if direct.is_none() {
        inner.with_pre_tokenizer(part::<PreTokenizerWrapper>("pre_tokenizer", file.pre_tokenizer)?);
    }
    Ok(Assembled { inner, direct })
}

fn post_processor(json: Json) -> Result<Option<PostProcessorWrapper>, Error> {
    let refused = |reason: String| bad(format_args!("post_processor: {reason}"));
    let processor = part::<PostProcessorWrapper>("post_processor", json)?;
    let written = serde_json::to_value(&processor).map_err(|error| refused(error.to_string()))?;
    around::check(&written).map_err(refused)?;
    Ok(processor)
}

fn part<T: DeserializeOwned>(name: &str, json: Json) -> Result<Option<T>, Error> {
    serde_json::from_value(json).map_err(|error| bad(format_args!("{name}: {error}")))
}

fn add(inner: &mut Inner, tokens: Vec<Added>) -> Result<(), Error> {
    let ids: Vec<(u32, String)> = tokens.iter().map(|token| (token.id, token.content.clone())).collect();
    let tokens: Vec<AddedToken> = tokens.into_iter().map(Added::into).collect();
    inner.add_tokens(&tokens);
    for (id, content) in ids.into_iter().filter(|(_, content)| !content.is_empty()) {
        let found = inner.token_to_id(&content);
        if found != Some(id) {
            return Err(bad(format_args!("added_tokens: {content:?} is {id} there, but {found:?} in the vocabulary")));
        }
    }
    Ok(())
}

impl From<Added> for AddedToken {
    fn from(added: Added) -> Self {
        AddedToken::from(added.content, added.special)
            .single_word(added.single_word)
            .lstrip(added.lstrip)
            .rstrip(added.rstrip)
            .normalized(added.normalized.unwrap_or(!added.special))
    }
}

fn bad(reason: impl std::fmt::Display) -> Error {
    Error::BadModel(format!("tokenizer.json: {reason}"))
}
