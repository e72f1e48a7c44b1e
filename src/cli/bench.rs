//! The shape of `bench`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Measure this machine and this build
#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub struct Bench {
    #[command(subcommand)]
    pub what: What,
}

/// What to measure.
#[derive(Debug, Subcommand)]
pub enum What {
    ColdStart(ColdStart),
}

/// From no process at all to the first token, over HTTP, with where the time went
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  pilotlight bench cold-start\n  pilotlight bench cold-start my.snapshot --runs 20 --json"
)]
pub struct ColdStart {
    /// The snapshot [default: that of smollm2, pulled and sealed if need be]
    pub file: Option<PathBuf>,
    /// How often
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
