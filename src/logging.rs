//! Logs on standard error: text on a terminal, one JSON object a line otherwise.

use crate::{environment::Environment, output};
use std::io;
use tracing::subscriber::set_global_default;
use tracing_subscriber::{EnvFilter, filter::LevelFilter};

/// What is logged when no filter is given.
const DEFAULT_LEVEL: LevelFilter = LevelFilter::INFO;

/// Starts logging for the whole process. With neither filter nor terminal this costs some microseconds: no threads, no files.
pub fn start(environment: &Environment) {
    let builder = tracing_subscriber::fmt().with_writer(io::stderr);
    let terminal = output::on_terminal();
    // A second start can only happen in tests of this binary, which share a process: the first one stays. What libraries tell `log` is left
    // out, whatever features they give tracing-subscriber.
    let _ = match (&environment.log, terminal) {
        (None, true) => set_global_default(builder.with_max_level(DEFAULT_LEVEL).with_target(false).finish()),
        (None, false) => set_global_default(builder.with_max_level(DEFAULT_LEVEL).json().finish()),
        (Some(words), true) => set_global_default(builder.with_env_filter(filter(words)).finish()),
        (Some(words), false) => set_global_default(builder.with_env_filter(filter(words)).json().finish()),
    };
}

fn filter(words: &str) -> EnvFilter {
    EnvFilter::builder().with_default_directive(DEFAULT_LEVEL.into()).parse_lossy(words)
}
