//! Text ↔ token ids, by the model's own `tokenizer.json`, or by what was sealed of it ([`sealed`]). **Invariant:** never a broken character before the end of a stream.

mod around;
mod bpe;
mod bytes;
mod charsmap;
pub(crate) mod cuts;
mod direct;
mod file;
mod sealed;
mod stream;
mod words;

pub use stream::TokenStream;

use self::bytes::Spelling;
use crate::Error;
use ::bytes::Bytes;
use direct::Direct;
use file::{Assembled, Inner};
use sealed::Sealed;
use snapshot::{SectionKind, Snapshot};
use std::sync::Arc;

/// Largest `tokenizer.json`, in bytes.
pub const TOKENIZER_BYTES_MAX: u64 = 256 << 20;

/// Text ↔ token ids. Special tokens in text are parsed as special.
pub struct Tokenizer {
    inner: Inner,
    direct: Option<Direct>,
    spelling: Spelling,
    vocab_size: usize,
}

impl Tokenizer {
    /// From the snapshot's `tokenizer` section.
    ///
    /// # Errors
    /// The section is missing, corrupt, or not a tokenizer this version runs.
    pub fn from_snapshot(snapshot: &Arc<Snapshot>) -> Result<Self, Error> {
        let section = snapshot.section_bytes(SectionKind::Tokenizer)?;
        Self::from_section(section.ok_or_else(|| Error::BadModel("the snapshot has no tokenizer section".into()))?)
    }

    /// The section of the bytes of a `tokenizer.json`. Same bytes, same section.
    ///
    /// # Errors
    /// [`Error::BadModel`] where its vocabulary cannot be written.
    pub fn seal(json: &[u8]) -> Result<Vec<u8>, Error> {
        sealed::seal(json)
    }

    /// From the bytes of that section.
    ///
    /// # Errors
    /// As [`Tokenizer::from_snapshot`].
    pub fn from_section(section: Bytes) -> Result<Self, Error> {
        match sealed::open(section)? {
            Sealed::Tables(rules, tables) => Self::new(file::with_tables(&rules, tables)?),
            Sealed::Json(json) => Self::from_json(&json),
        }
    }

    /// From the bytes of a `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::BadModel`] names the place; [`Error::Unsupported`] a model that is neither BPE nor WordPiece nor Unigram.
    pub fn from_json(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() as u64 > TOKENIZER_BYTES_MAX {
            let size = bytes.len();
            return Err(Error::BadModel(format!("tokenizer.json: {size} bytes, at most {TOKENIZER_BYTES_MAX}")));
        }
        Self::new(file::parse(bytes)?)
    }

    fn new(Assembled { inner, direct }: Assembled) -> Result<Self, Error> {
        // A decoder that cannot work shows at once.
        inner.decode(&[0], false).map_err(|error| Error::BadModel(format!("tokenizer.json: decoder: {error}")))?;
        let added = inner.get_added_vocabulary().get_added_tokens_decoder().keys().max();
        let vocab_size = inner.get_model().ids().max(added.map_or(0, |id| *id as usize + 1));
        let spelling = Spelling::of(&inner);
        Ok(Self { inner, direct, spelling, vocab_size })
    }

    /// `add_special`: what the tokenizer's post-processor adds (BOS).
    ///
    /// # Errors
    /// The tokenizer refuses the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, Error> {
        let ids = match &self.direct {
            Some(direct) => direct.encode(&self.inner, text, add_special),
            None => self.inner.encode_fast(text, add_special).map(|encoding| encoding.get_ids().to_vec()),
        };
        ids.map_err(|error| Error::BadModel(format!("tokenizer: {error}")))
    }

    /// The text of all `ids` together; unknown ids are nothing, broken characters are U+FFFD.
    ///
    /// # Errors
    /// The decoder refuses the tokens.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, Error> {
        self.inner.decode(ids, skip_special).map_err(|error| Error::BadModel(format!("tokenizer: {error}")))
    }

    /// The bytes one token stands for on its own (for `logprobs`' `bytes` and `token`); none for an unknown id.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.spelling.token_bytes(&self.inner, id)
    }

    /// The name of a special token; `None` for any other.
    pub fn special(&self, id: u32) -> Option<String> {
        let token = self.inner.id_to_token(id)?;
        self.inner.get_added_vocabulary().is_special_token(&token).then_some(token)
    }

    /// The id of a token by its exact text in the vocabulary, e.g. `<|im_end|>`.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// One more than the largest id, added tokens included.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Incremental decoding: complete characters only, the rest is held back.
    pub fn stream(self: &Arc<Self>, skip_special: bool) -> TokenStream {
        TokenStream::new(self.clone(), skip_special, false)
    }

    /// As [`Tokenizer::stream`], for ids that go on where other text ends.
    pub fn stream_on(self: &Arc<Self>, skip_special: bool) -> TokenStream {
        TokenStream::new(self.clone(), skip_special, true)
    }

    fn is_byte_level(&self) -> bool {
        matches!(self.spelling, Spelling::ByteLevel)
    }

    fn decode_middle(&self, ids: &[u32], skip_special: bool) -> String {
        self.spelling.middle(&self.inner, ids, skip_special)
    }

    /// The token as the vocabulary spells it; `None` for what does not appear in text.
    fn shown(&self, id: u32, skip_special: bool) -> Option<String> {
        let token = self.inner.id_to_token(id)?;
        let special = skip_special && self.inner.get_added_vocabulary().is_special_token(&token);
        (!special).then_some(token)
    }
}
