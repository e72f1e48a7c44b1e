//! `guest …`: for authors of guests.

mod build;
mod cases;
mod new;
mod test;

use crate::{cli::Guest, exit::Result};

/// `guest …`
pub fn guest(command: &Guest) -> Result<()> {
    match command {
        Guest::New(args) => new::new(args),
        Guest::Build(args) => build::build(args),
        Guest::Test(args) => test::test(args),
    }
}
