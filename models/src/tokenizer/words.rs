//! The models of tokenizers: byte-pair encoding by our own, which loads quickly, and WordPiece and Unigram by the tokenizers
//! crate's.

use super::bpe::{Bpe, Untrainable};
use std::path::{Path, PathBuf};
use tokenizers::{Model, ModelWrapper, Result, Token};

/// Text between two breaks → tokens.
#[allow(clippy::large_enum_variant, reason = "there is one of it")]
pub(super) enum Words {
    Bpe(Bpe),
    Other(ModelWrapper),
}

impl Words {
    /// One more than the largest id.
    pub fn ids(&self) -> usize {
        match self {
            Self::Bpe(bpe) => bpe.ids(),
            Self::Other(model) => model.get_vocab().values().max().map_or(0, |id| *id as usize + 1),
        }
    }
}

impl Model for Words {
    type Trainer = Untrainable;

    fn tokenize(&self, text: &str) -> Result<Vec<Token>> {
        match self {
            Self::Bpe(bpe) => bpe.tokenize(text),
            Self::Other(model) => model.tokenize(text),
        }
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        match self {
            Self::Bpe(bpe) => bpe.token_to_id(token),
            Self::Other(model) => model.token_to_id(token),
        }
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        match self {
            Self::Bpe(bpe) => bpe.id_to_token(id),
            Self::Other(model) => model.id_to_token(id),
        }
    }

    fn get_vocab(&self) -> std::collections::HashMap<String, u32> {
        match self {
            Self::Bpe(bpe) => bpe.get_vocab(),
            Self::Other(model) => model.get_vocab(),
        }
    }

    fn get_vocab_size(&self) -> usize {
        match self {
            Self::Bpe(bpe) => bpe.get_vocab_size(),
            Self::Other(model) => model.get_vocab_size(),
        }
    }

    fn save(&self, _: &Path, _: Option<&str>) -> Result<Vec<PathBuf>> {
        Err("a tokenizer is kept as the file it came from".into())
    }

    fn get_trainer(&self) -> Untrainable {
        Untrainable
    }
}
