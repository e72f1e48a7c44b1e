//! The shape of the commands for who operates `serve`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// The configuration of `serve`: an example, its schema, and whether a file is right
#[derive(Debug, Subcommand)]
pub enum Config {
    /// Print a configuration that says everything there is to say
    #[command(after_help = "EXAMPLES:\n  pilotlight config example > pilotlight.toml")]
    Example,
    /// Print the JSON schema of the configuration, for editors
    #[command(after_help = "EXAMPLES:\n  pilotlight config schema > pilotlight.schema.json")]
    Schema,
    /// Say what is wrong with a configuration; nothing, if it is right
    #[command(after_help = "EXAMPLES:\n  pilotlight config check pilotlight.toml && kill -HUP $(pidof pilotlight)")]
    Check(File),
}

/// A file that is read
#[derive(Debug, Args)]
pub struct File {
    /// The file
    pub file: PathBuf,
}

/// API keys
#[derive(Debug, Subcommand)]
pub enum Key {
    /// Make a key: print it on standard output, once, and on standard error what to write into the configuration
    #[command(after_help = "EXAMPLES:\n  pilotlight key new\n  pilotlight key new --json | jq -r .hash")]
    New(New),
}

/// A new key
#[derive(Debug, Args)]
pub struct New {
    /// Print both as JSON
    #[arg(long)]
    pub json: bool,
}

/// The record of requests that `serve --audit` writes
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Say whether every line is as it was written, and print how many there are and the hash of the last
    #[command(
        after_help = "EXAMPLES:\n  pilotlight audit verify audit.jsonl\n\nLines cut off the end show only beside a hash that was kept elsewhere: --hash HASH"
    )]
    Verify(Verify),
}

/// What to verify
#[derive(Debug, Args)]
pub struct Verify {
    /// The file
    pub file: PathBuf,
    /// The last line's hash must be this
    #[arg(long, value_name = "HASH")]
    pub hash: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
