//! `runtime`: one runtime process, as an activator launches it. On the cold-start path.

use crate::{cli::RuntimeArgs, environment::Environment, logging};
use std::process::ExitCode;

/// Hands over to the runtime; its sockets were inherited.
pub fn start(args: &RuntimeArgs, environment: &Environment) -> ExitCode {
    logging::start(environment);
    runtime::child(args.engine.options())
}
