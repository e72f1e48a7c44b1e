//! Tools: how a model's template writes calls, reading them out of its text as it comes, and the grammar of answers that must
//! be calls.
//!
//! **Invariant:** what comes out does not depend on how the text was cut into pieces; text that is no call is content, whole.

mod format;
mod object;
mod parser;

pub use format::Format;
pub use parser::{CallDelta, Parser};
