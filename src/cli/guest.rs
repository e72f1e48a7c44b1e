//! Words for authors of guests.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// Write, build and try guests: WebAssembly plug-ins that requests and answers go through
#[derive(Debug, Subcommand)]
pub enum Guest {
    New(GuestNew),
    Build(GuestBuild),
    Test(GuestTest),
    Bench(GuestBench),
    Pull(GuestPull),
}

/// Make a folder with a guest to begin with, and everything that it is built from
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  pilotlight guest new shout && cd shout && pilotlight guest build && pilotlight guest test"
)]
pub struct GuestNew {
    /// The guest's name, and its folder's: lower-case letters, digits and dashes
    pub name: String,
}

/// Build a guest to a component, NAME.wasm in its folder
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  pilotlight guest build\n  pilotlight guest build ./shout\n\nNeeds Rust with the target wasm32-unknown-unknown (rustup target add wasm32-unknown-unknown). On Debian without it, a toolchain is put together\nfrom Debian's packages in the user's cache folder, once: about two minutes and 500 MB."
)]
pub struct GuestBuild {
    /// The guest's folder
    #[arg(default_value = ".")]
    pub folder: PathBuf,
}

/// Try a guest with the cases of its folder, its texts cut at every character, and say what each hook takes
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  pilotlight guest test\n  pilotlight guest test ./shout --json\n  pilotlight guest test redact.wasm --cases ./cases"
)]
pub struct GuestTest {
    /// The guest's folder, its manifest (guest.toml) or its component
    #[arg(default_value = ".")]
    pub guest: PathBuf,
    /// Where the cases are [default: the folder `cases` beside the guest]
    #[arg(long, value_name = "FOLDER")]
    pub cases: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Measure what a request through a guest takes, without a model: its instance and each hook
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:\n  pilotlight guest bench\n  pilotlight guest bench redact.wasm --tokens 64 --json")]
pub struct GuestBench {
    /// The guest's folder, its manifest (guest.toml) or its component
    #[arg(default_value = ".")]
    pub guest: PathBuf,
    /// Requests, one after the other, each with an instance of its own
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub requests: u32,
    /// Tokens, or pieces of text, of each answer
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub tokens: u32,
    /// The vocabulary's size
    #[arg(long, value_name = "N", default_value_t = 49_152, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    pub vocab: u32,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Bring a guest from a registry into the store, and print its address pinned by digest, for a manifest's `component`
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  pilotlight guest pull oci://ghcr.io/acme/redact:1.2\n\nThe artifact has one layer of application/wasm, as `wkg oci push` and `oras push` make it. Registries are logged in to with docker or oras;\none on this machine is spoken to without TLS."
)]
pub struct GuestPull {
    /// oci://REGISTRY/REPOSITORY, with :TAG or @sha256:DIGEST
    pub address: String,
}
