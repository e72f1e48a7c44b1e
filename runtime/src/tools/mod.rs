//! Tools: how a model's template writes calls, reading them out of its text as it comes, and the grammar of answers that must
//! be calls.
//!
//! **Invariant:** what comes out does not depend on how the text was cut into pieces; text that is no call is content, whole.

mod format;
mod object;
mod parser;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod value;

pub use format::Format;
pub use parser::{CallDelta, Parsed, Parser};

use protocol::tools::Tools;
use std::sync::Arc;

/// What calls there may be in an answer.
#[derive(Clone, Debug)]
pub struct Reading {
    /// How they are written.
    pub format: Format,
    /// Functions that may be called; calls of others are content.
    pub names: Arc<[String]>,
    /// There may be several; else the answer ends behind the first.
    pub parallel: bool,
}

impl Reading {
    /// For a request's tools.
    pub fn new(format: Format, tools: &Tools) -> Self {
        let names = tools.functions.iter().map(|function| function.name.clone()).collect();
        Self { format, names, parallel: tools.parallel }
    }
}
