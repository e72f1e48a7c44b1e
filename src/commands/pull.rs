//! `pull`: a model's files into the store.

use crate::{cli::Pull, environment::Environment, exit::Result, output, progress::Progress};
use store::{Entry, Store};

/// Fetches, verifies, and prints the name in the store.
pub fn pull(args: &Pull, environment: &Environment) -> Result<()> {
    let store = Store::open(&environment.store()?)?;
    let entry = fetch(&store, &args.source, args.name.as_deref())?;
    output::line(entry.name)
}

/// The same with a progress bar, for all commands that need a model.
pub fn fetch(store: &Store, source: &str, name: Option<&str>) -> Result<Entry> {
    let mut progress = Progress::new();
    let entry = store.pull(source, name, &mut |at| progress.at(&at.step, at.done, at.total))?;
    progress.done(&format!("pulled {} ({}) into {}", entry.name, output::bytes(entry.bytes), entry.path.display()));
    Ok(entry)
}
