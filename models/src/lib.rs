//! Models: importers, sealing, tokenizer, chat template, and the Burn graphs that run them.
//!
//! No network and no async here; every foreign byte is bounded and checked before it is used.
//! Unsafe code lives in `import/map.rs` alone.
#![deny(unsafe_code)]

mod architectures;
mod compiled;
mod config;
mod cost;
mod device;
mod error;
mod generation;
mod graph;
mod headed;
pub mod import;
mod prefix;
mod restore;
mod rope_config;
mod seal;
mod template;
mod tokenizer;
mod upload;

pub use compiled::{KernelBundle, adopt_kernels};
pub use config::{Activation, Biases, EncoderConfig, Experts, ModelConfig, Pooling, Sliding, Variant};
pub use cost::{Cost, Operations};
pub use device::ComputeDevice;
pub use error::Error;
pub use generation::Generation;
pub use graph::{Batch, Encoder, Kv, Logits, Model, Segment};
pub use import::Source;
pub use prefix::Prefix;
pub use rope_config::{Rope, RopeScaling};
pub use seal::{Ahead, SealOptions, Target, Weights, seal, seal_ahead};
pub use template::ChatTemplate;
pub use tokenizer::{TokenStream, Tokenizer};
pub use upload::Uploading;
