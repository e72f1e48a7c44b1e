//! The command `pilotlight`: words in, one of the crates at work, a sysexits code out.
//!
//! **Invariant:** [`cli`] is only the shape of the arguments; [`environment`] alone reads the environment; [`commands`]
//! resolve both into a crate's `Config` once and hand over. No model, no request and no slot is known here.
//!
//! `pilotlight runtime` is on the cold-start path: it is dispatched before anything else is built.

#![deny(unsafe_code)]

mod allocator;
mod cli;
mod client;
mod commands;
mod configuration;
mod environment;
mod exit;
mod logging;
mod measure;
mod output;
mod panics;
mod progress;
mod timeline;

use std::process::ExitCode;

fn main() -> ExitCode {
    panics::guard(|| match cli::parse(std::env::args_os()) {
        Ok(command) => commands::dispatch(command),
        Err(code) => code,
    })
}
