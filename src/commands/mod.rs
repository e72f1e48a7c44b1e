//! One file a command: its arguments and the environment become a crate's `Config`, once, and the crate goes to work.

mod bench;
mod demo;
mod doctor;
mod encrypted;
mod guest;
mod guests;
mod inspect;
mod operate;
mod pull;
mod run;
mod runtime;
mod seal;
mod serve;
mod store;

pub use seal::operator_key;

use crate::{
    cli::Command,
    environment::Environment,
    exit::{self, Result},
};
use std::process::ExitCode;

/// Does what `command` says.
pub fn dispatch(command: Command) -> ExitCode {
    let environment = Environment::read();
    let done = |result: Result<()>| exit::report(result);
    match command {
        Command::Runtime(args) => runtime::start(&args, &environment),
        Command::Serve(args) => serve::start(&args, &environment),
        Command::Run(args) => run::start(&args, &environment),
        Command::Demo(args) => done(demo::demo(&args, &environment)),
        Command::Pull(args) => done(pull::pull(&args, &environment)),
        Command::Seal(args) => done(seal::seal(&args, &environment)),
        Command::Inspect(args) => done(inspect::inspect(&args)),
        Command::Ls(args) => done(store::list(&args, &environment)),
        Command::Rm(args) => done(store::remove(&args, &environment)),
        Command::Guest(args) => done(guest::guest(&args, &environment)),
        Command::Config(args) => done(operate::config(&args, &environment)),
        Command::Key(args) => done(operate::key(&args)),
        Command::Audit(args) => done(operate::audit(&args)),
        Command::Doctor(args) => done(doctor::doctor(&args, &environment)),
        Command::Bench(args) => done(bench::bench(&args, &environment)),
    }
}
