//! The graphs, restored from sealed files, against models computed elsewhere.
#![allow(missing_docs, clippy::unwrap_used)]

#[cfg(feature = "cuda")]
mod cuda;
mod decrypted;
mod direct;
#[path = "../support/mod.rs"]
mod files;
mod golden;
mod naive;
mod random;
mod reference;
mod refused;
mod smollm2;
mod support;
#[cfg(feature = "vulkan")]
mod vulkan;
