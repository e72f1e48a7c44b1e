//! Importers, sealing, tokenizer and template against golden files, the real SmolLM2, and files as wrong as they come.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../support/mod.rs"]
mod support;

mod gguf;
mod huggingface;
mod seal;
mod template;
mod tokenizer;
mod tools;
mod vocabularies;
