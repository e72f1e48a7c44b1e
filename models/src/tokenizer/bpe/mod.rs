//! Byte-pair encoding that is there at once: vocabulary and merges are tables that are searched where they are mapped. They are made
//! when a model is sealed, straight from JSON. What it encodes is what the tokenizers crate's own BPE encodes.

mod pairs;
mod read;
mod tables;
mod vocabulary;
mod word;

use super::bytes::spelt;
use hashbrown::HashMap;
pub(super) use pairs::Pairs;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
pub(super) use tables::Tables;
use tokenizers::{AddedToken, Model, Result, Token, Trainer};
use word::Word;

/// The token of each byte; bytes that no text has may have none.
pub(super) type OfBytes = [Option<u32>; 256];

/// A byte-pair encoding as `tokenizer.json` has it.
pub(super) struct Bpe {
    tables: Tables,
    rules: Rules,
}

/// What `tokenizer.json` says beside vocabulary and merges.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Rules {
    /// Stands for characters without a token.
    unknown: Option<String>,
    /// One unknown token for a run of such characters.
    fuse_unknown: bool,
    /// A character without a token is its bytes, spelt `<0xHH>`, where all of them are tokens.
    byte_fallback: bool,
    /// A word that is in the vocabulary is one token whatever the merges say.
    ignore_merges: bool,
}

impl Bpe {
    pub fn new(tables: Tables, rules: Rules) -> Self {
        Self { tables, rules }
    }

    /// Both halves, to be sealed.
    pub fn into_parts(self) -> (Tables, Rules) {
        (self.tables, self.rules)
    }

    /// One more than the largest id.
    pub fn ids(&self) -> usize {
        self.tables.ids()
    }

    /// The token of each byte's character.
    pub fn of_bytes(&self) -> Box<OfBytes> {
        Box::new(std::array::from_fn(|byte| self.tables.id(spelt(byte as u8).encode_utf8(&mut [0; 4]))))
    }

    /// Adds to `out` the tokens of a piece of text: those of its bytes' characters, whose tokens are [`Bpe::of_bytes`].
    ///
    /// # Errors
    /// As [`Model::tokenize`].
    pub fn encode(&self, piece: &[u8], of_bytes: &OfBytes, pairs: &mut Pairs, out: &mut Vec<u32>) -> Result<()> {
        let spelt = || piece.iter().copied().map(spelt).collect::<String>();
        if self.rules.ignore_merges
            && let Some(id) = self.tables.id(&spelt())
        {
            out.push(id);
        } else if pairs.fill(piece.iter().map(|byte| of_bytes[usize::from(*byte)])) {
            pairs.merge(&self.tables, out);
        } else {
            out.extend(self.merged(&spelt())?.tokens().map(|(id, _)| id));
        }
        Ok(())
    }

    /// The tokens of `text`, and what each covers, in bytes.
    fn merged(&self, text: &str) -> Result<Word> {
        let mut word = self.characters(text)?;
        word.merge(&self.tables);
        Ok(word)
    }

    /// The characters of `text` as tokens, and what each covers, in bytes.
    fn characters(&self, text: &str) -> Result<Word> {
        let mut word = Word::with_capacity(text.len());
        let mut unknown = 0;
        for (at, c) in text.char_indices() {
            let bytes = &text[at..at + c.len_utf8()];
            if let Some(id) = self.tables.id(bytes) {
                self.push_unknown(&mut word, &mut unknown)?;
                word.push(id, bytes.len());
            } else if let Some(ids) = self.fallback(bytes) {
                ids.into_iter().for_each(|id| word.push(id, 1));
            } else if self.rules.unknown.is_some() {
                if !self.rules.fuse_unknown {
                    self.push_unknown(&mut word, &mut unknown)?;
                }
                unknown += bytes.len();
            }
        }
        self.push_unknown(&mut word, &mut unknown)?;
        Ok(word)
    }

    fn push_unknown(&self, word: &mut Word, bytes: &mut usize) -> Result<()> {
        if *bytes > 0 {
            let token = self.rules.unknown.as_deref().unwrap_or_default();
            let id = self.tables.id(token).ok_or_else(|| format!("unk_token {token:?} is not in the vocabulary"))?;
            word.push(id, std::mem::take(bytes));
        }
        Ok(())
    }

    fn fallback(&self, bytes: &str) -> Option<Vec<u32>> {
        let id = |byte: u8| self.tables.id(&format!("<0x{byte:02X}>"));
        self.rules.byte_fallback.then(|| bytes.bytes().map(id).collect::<Option<Vec<u32>>>()).flatten()
    }
}

impl Model for Bpe {
    type Trainer = Untrainable;

    fn tokenize(&self, text: &str) -> Result<Vec<Token>> {
        if self.rules.ignore_merges
            && let Some(id) = self.tables.id(text)
        {
            return Ok(vec![Token::new(id, text.to_owned(), (0, text.len()))]);
        }
        let mut at = 0;
        Ok(self
            .merged(text)?
            .tokens()
            .map(|(id, bytes)| {
                let from = at;
                at += bytes;
                Token::new(id, self.tables.token(id).unwrap_or_default().to_owned(), (from, at))
            })
            .collect())
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        self.tables.id(token)
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        self.tables.token(id).map(str::to_owned)
    }

    fn get_vocab(&self) -> std::collections::HashMap<String, u32> {
        self.tables.iter().map(|(id, token)| (token.to_owned(), id)).collect()
    }

    fn get_vocab_size(&self) -> usize {
        self.tables.len()
    }

    fn save(&self, _: &Path, _: Option<&str>) -> Result<Vec<PathBuf>> {
        Err("a tokenizer is kept as the file it came from".into())
    }

    fn get_trainer(&self) -> Untrainable {
        Untrainable
    }
}

/// Nothing is trained here; the trait asks for a type.
pub(super) struct Untrainable;

impl Trainer for Untrainable {
    type Model = super::words::Words;

    fn should_show_progress(&self) -> bool {
        false
    }

    fn train(&self, _: &mut Self::Model) -> Result<Vec<AddedToken>> {
        Err("tokenizers are not trained here".into())
    }

    fn feed<I, S, F>(&mut self, _: I, _: F) -> Result<()>
    where
        I: Iterator<Item = S> + Send,
        S: AsRef<str> + Send,
        F: Fn(&str) -> Result<Vec<String>> + Sync,
    {
        Err("tokenizers are not trained here".into())
    }
}

/// Pair → its rank, and the token it becomes.
type PairMap = HashMap<(u32, u32), (u32, u32)>;
