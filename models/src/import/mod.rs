//! Models as their makers publish them → one canonical form: a `.gguf` file, or a Hugging Face folder.
//!
//! Opening maps files and checks everything but the weights' values: names, shapes, formats, sizes. **Invariant:** an open
//! [`Source`] holds exactly the tensors its graph needs, in order of first use. Nothing here writes, and nothing is downloaded.

mod fp8;
pub mod gguf;
pub(crate) mod hf;
mod map;
pub(crate) mod plan;
mod reader;
pub mod safetensors_index;
pub(crate) mod template;
pub(crate) mod tensor;

use crate::{ChatTemplate, Error, Generation, ModelConfig, Tokenizer};
use bytes::Bytes;
use std::path::Path;
use template::Templates;
use tensor::Stored;

/// A model as its makers published it, opened but not read: `.gguf`, or a Hugging Face folder.
pub struct Source {
    config: ModelConfig,
    generation: Generation,
    /// In order of first use.
    tensors: Vec<Stored>,
    /// A `tokenizer.json`.
    tokenizer: Bytes,
    templates: Templates,
}

impl Source {
    /// Opens a `.gguf` file or a Hugging Face folder.
    ///
    /// # Errors
    /// [`Error::BadModel`] says what is wrong and where; [`Error::Unsupported`] what this version does not run.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let kind = std::fs::metadata(path)
            .map_err(|error| std::io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
        let mut source = if kind.is_dir() { hf::open(path)? } else { gguf::open(path)? };
        source.drop_foreign_tokens(path);
        // A template that cannot work is found now, not by the first conversation.
        source.chat_template().map_err(|error| error.at(path))?;
        Ok(source)
    }

    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// How the makers want it sampled.
    pub fn generation(&self) -> &Generation {
        &self.generation
    }

    /// The bytes of its `tokenizer.json`, the makers' own or rebuilt.
    pub fn tokenizer_json(&self) -> &[u8] {
        &self.tokenizer
    }

    /// Its chat template, if it has one.
    ///
    /// # Errors
    /// The template does not parse.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, Error> {
        ChatTemplate::new(self.templates.clone())
    }

    pub(crate) fn tensors(&self) -> &[Stored] {
        &self.tensors
    }

    pub(crate) fn templates(&self) -> &Templates {
        &self.templates
    }

    /// A token id beyond the embedding can neither be read nor sampled: files name some by a default of their makers' tools.
    fn drop_foreign_tokens(&mut self, path: &Path) {
        let vocab_size = self.config.vocab_size;
        let known = |word: &str, id: u32| {
            let known = (id as usize) < vocab_size;
            if !known {
                let path = path.display();
                tracing::warn!("{path}: {word} token {id} is left out: the vocabulary has {vocab_size} tokens");
            }
            known
        };
        let Generation { bos, eos, .. } = &mut self.generation;
        *bos = bos.filter(|&id| known("bos", id));
        eos.retain(|&id| known("eos", id));
        match Tokenizer::from_json(&self.tokenizer) {
            Ok(tokenizer) if tokenizer.vocab_size() > vocab_size => {
                let (path, more) = (path.display(), tokenizer.vocab_size());
                tracing::warn!(
                    "{path}: the tokenizer has {more} tokens, the model {vocab_size}: texts with those beyond are refused"
                );
            }
            _ => {}
        }
    }
}
