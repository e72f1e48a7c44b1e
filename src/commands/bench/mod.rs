//! `bench`: this machine and this build, measured.

mod alone;
mod cold_start;
mod decode;
mod prefill;
mod restore;
mod spread;

use super::demo::ready_snapshot;
use crate::{
    cli::{Bench, What},
    environment::Environment,
    exit::Result,
};
use std::path::PathBuf;

/// The model where no snapshot is named.
const MODEL: &str = "smollm2";

/// Measures and prints.
pub fn bench(args: &Bench, environment: &Environment) -> Result<()> {
    let snapshot = |file: &Option<PathBuf>| file.clone().map_or_else(|| ready_snapshot(MODEL, environment), Ok);
    match &args.what {
        What::ColdStart(args) => cold_start::bench(args, &snapshot(&args.file)?),
        What::Restore(args) => restore::bench(args, &snapshot(&args.file)?),
        What::Decode(args) => decode::bench(args, &snapshot(&args.alone.file)?),
        What::Prefill(args) => prefill::bench(args, &snapshot(&args.alone.file)?),
    }
}
