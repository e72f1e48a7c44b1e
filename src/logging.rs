//! Logs on standard error: text on a terminal, one JSON object a line otherwise.

use crate::{environment::Environment, output};
use std::io;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// What is logged when no filter is given.
const DEFAULT_LEVEL: LevelFilter = LevelFilter::INFO;

/// Starts logging for the whole process. With neither filter nor terminal this costs some microseconds: no threads, no files.
pub fn start(environment: &Environment) {
    let builder = tracing_subscriber::fmt().with_writer(io::stderr);
    let terminal = output::on_terminal();
    // A second start can only happen in tests of this binary, which share a process: the first one stays.
    let _ = match (&environment.log, terminal) {
        (None, true) => builder.with_max_level(DEFAULT_LEVEL).with_target(false).try_init(),
        (None, false) => builder.with_max_level(DEFAULT_LEVEL).json().try_init(),
        (Some(words), true) => builder.with_env_filter(filter(words)).try_init(),
        (Some(words), false) => builder.with_env_filter(filter(words)).json().try_init(),
    };
}

fn filter(words: &str) -> EnvFilter {
    EnvFilter::builder().with_default_directive(DEFAULT_LEVEL.into()).parse_lossy(words)
}
