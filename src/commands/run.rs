//! `run`: one runtime alone on a port.

use super::serve::check;
use crate::{
    cli::Run,
    environment::Environment,
    exit::{self, Result},
    logging,
};
use std::{net::SocketAddr, process::ExitCode};

/// Hands over to the runtime.
pub fn start(args: &Run, environment: &Environment) -> ExitCode {
    logging::start(environment);
    match resolve(args, environment) {
        Ok((listen, options)) => runtime::alone(args.file.clone(), listen, options),
        Err(error) => exit::report(Err(error)),
    }
}

fn resolve(args: &Run, environment: &Environment) -> Result<(SocketAddr, runtime::Options)> {
    check(&args.file)?;
    Ok((args.listen.map_or_else(|| environment.listen(), Ok)?, args.engine.options()?))
}
