//! The words spoken between clients, activator and runtime: OpenAI shapes, errors, timings, control messages.
//!
//! **Invariant:** no I/O, no clock, no async: bytes in, types out, and back. Every parser takes foreign bytes of any
//! kind, bounds their size and depth, and answers with an [`ApiError`] that names the field; none panics.

pub mod answer;
pub mod chat;
pub mod completion;
pub mod constraint;
pub mod control;
pub mod deadline;
pub mod digits;
pub mod embeddings;
pub mod error;
mod fields;
pub mod generate;
pub mod glance;
pub mod resume;
pub mod sse;
pub mod steps;
pub mod timings;
pub mod tokenize;
pub mod tools;
mod unsupported;
pub mod usage;

pub use chat::{ChatRequest, parse_chat};
pub use completion::{CompletionRequest, Prompt, parse_completion};
pub use constraint::{Constraint, Form};
pub use embeddings::{EmbeddingAnswer, EmbeddingRequest, parse_embeddings};
pub use error::{ApiError, ErrorKind};
pub use fields::{BODY_BYTES_MAX, JSON_DEPTH_MAX, Peek, peek};
pub use generate::{Generate, Sampling};
pub use glance::{Glance, glance_chat};
pub use tokenize::{DetokenizeRequest, TokenizeInput, TokenizeRequest, parse_detokenize, parse_tokenize};
