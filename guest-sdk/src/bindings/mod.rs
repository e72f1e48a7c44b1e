//! Generated from `wit/` by `generate-bindings`: one module a world. Not for authors; their words are in the crate's root.

pub mod request_hook;
pub mod response_hook;
pub mod services;
pub mod text_hook;
pub mod token_hook;
