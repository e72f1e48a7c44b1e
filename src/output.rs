//! Words for people: results on standard output, everything else on standard error.
//!
//! **Invariant:** nothing here panics when the reader has left; a broken pipe is an error value.

use crate::exit::Result;
use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
};

/// One line of a command's result.
pub fn line(text: impl Display) -> Result<()> {
    Ok(writeln!(io::stdout().lock(), "{text}")?)
}

/// A piece of a result, shown at once.
pub fn piece(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// A result as JSON, for programs.
pub fn json(value: &serde_json::Value) -> Result<()> {
    line(format_args!("{value:#}"))
}

/// Something a person may want to know while the command works.
pub fn note(text: impl Display) {
    // Nobody reads it: nothing to be done about that.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// The one line that says why the command failed.
pub fn complain(error: &dyn Display) {
    note(format_args!("pilotlight: {error}"));
}

/// Standard error is a terminal: bars and colours make sense.
pub fn on_terminal() -> bool {
    io::stderr().is_terminal()
}

/// Bytes as people read them: `97.9 MB`.
pub fn bytes(count: u64) -> String {
    indicatif::DecimalBytes(count).to_string()
}
