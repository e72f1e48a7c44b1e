//! `guest pull`: a guest from a registry into the store.

use crate::{cli::GuestPull, environment::Environment, exit::Result, output, progress::Progress};
use store::Store;

/// Fetches, verifies, and prints the address that will mean the same tomorrow.
pub fn pull(args: &GuestPull, environment: &Environment) -> Result<()> {
    let store = Store::open(&environment.store()?)?;
    let mut progress = Progress::new();
    let guest = store.pull_guest(&args.address, &mut |at| progress.at(&at.step, at.done, at.total))?;
    progress.done(&format!("pulled {} into {}", args.address, guest.component.display()));
    output::line(guest.pinned)
}
