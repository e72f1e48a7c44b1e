//! `runtime`: one runtime process, as an activator launches it. On the cold-start path.

use crate::{
    cli::RuntimeArgs,
    environment::Environment,
    exit::{self, Error},
    logging,
};
use std::process::ExitCode;

/// Hands over to the runtime; its sockets were inherited.
pub fn start(args: &RuntimeArgs, environment: &Environment) -> ExitCode {
    // First, so that all of this process has it.
    let share = args.share();
    if let Err(why) = share.take() {
        return exit::report(Err(Error::Unavailable(why)));
    }
    logging::start(environment);
    match args.engine.options() {
        Ok(options) => {
            let (confined, waits, ready_memory_bytes) = (!args.no_confine, args.waits, args.ready_memory);
            let memory_bytes = share.memory_bytes;
            runtime::child(runtime::Options { confined, memory_bytes, ready_memory_bytes, waits, ..options })
        }
        Err(error) => exit::report(Err(error)),
    }
}
