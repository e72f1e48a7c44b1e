//! Models: importers, sealing, tokenizer, chat template, and the Burn graphs that run them.
//!
//! No network and no async here; every foreign byte is bounded and checked before it is used.
//! Unsafe code lives in `import/map.rs` alone.
#![deny(unsafe_code)]

mod config;
mod error;
mod generation;
mod graph;
pub mod import;
mod restore;
mod seal;
mod template;
mod tokenizer;

pub use config::{Architecture, ModelConfig, Rope, RopeScaling};
pub use error::Error;
pub use generation::Generation;
pub use graph::{Batch, Kv, Logits, Model, Segment};
pub use import::Source;
pub use seal::{SealOptions, Weights, seal};
pub use template::ChatTemplate;
pub use tokenizer::{TokenStream, Tokenizer};
