//! `guest …`: for authors of guests.

mod bench;
mod build;
mod cases;
mod meter;
mod new;
mod pull;
mod test;

use crate::{cli::Guest, environment::Environment, exit::Result};

/// `guest …`
pub fn guest(command: &Guest, environment: &Environment) -> Result<()> {
    match command {
        Guest::New(args) => new::new(args),
        Guest::Build(args) => build::build(args, environment),
        Guest::Test(args) => test::test(args, environment),
        Guest::Bench(args) => bench::bench(args, environment),
        Guest::Pull(args) => pull::pull(args, environment),
    }
}
