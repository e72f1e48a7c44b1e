//! `runtime`: one runtime process, as an activator launches it. On the cold-start path.

use crate::{cli::RuntimeArgs, environment::Environment, exit, logging};
use std::process::ExitCode;

/// Hands over to the runtime; its sockets were inherited.
pub fn start(args: &RuntimeArgs, environment: &Environment) -> ExitCode {
    logging::start(environment);
    match args.engine.options() {
        Ok(options) => runtime::child(runtime::Options { confined: !args.no_confine, ..options }),
        Err(error) => exit::report(Err(error)),
    }
}
