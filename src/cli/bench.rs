//! The shape of `bench`.

use super::{serve::KvFormat, values::size};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// More tokens than any model's context has.
const TOKENS_MAX: i64 = 1 << 27;

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
    Restore(Restore),
    Decode(Decode),
    Prefill(Prefill),
}

/// From no process at all to the first token, over HTTP, with where the time went
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  pilotlight bench cold-start\n  pilotlight bench cold-start my.snapshot --runs 20 --json\n  pilotlight bench cold-start --standby 1"
)]
pub struct ColdStart {
    /// The snapshot [default: that of smollm2, pulled and sealed if need be]
    pub file: Option<PathBuf>,
    /// Processes that wait for a model, as in `serve`; 0: each start is of a process that is not there yet
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub standby: usize,
    /// How often
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A snapshot from its file to a verified model in this process, beside how fast this machine reads file and memory
///
/// Restore and limit take turns, from a page cache that has the file, and from one that has none of it. Only the file's own pages are
/// dropped; where another process has it mapped they stay.
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  pilotlight bench restore\n  pilotlight bench restore my.snapshot --runs 20 --json\n  pilotlight bench restore hidden.snapshot --decrypt-key operator.key --ready-memory 128MiB"
)]
pub struct Restore {
    /// The snapshot [default: that of smollm2, pulled and sealed if need be]
    pub file: Option<PathBuf>,
    /// How often
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// The operator's key of an encrypted snapshot: how fast this machine decrypts is the limit then
    #[arg(long, value_name = "FILE|command:PROGRAM")]
    pub decrypt_key: Option<PathBuf>,
    /// Memory that is there before each run to be decrypted into, as `serve --standby-memory` has it
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "0", requires = "decrypt_key")]
    pub ready_memory: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Token after token with the model alone in this process, beside what this machine's memory can be read at
///
/// No HTTP, no engine, no sampling. Model and memory take turns; the fraction is the bytes that the model's median speed reads,
/// over the best pass through memory. A model that fits the processor's caches is not bounded by it.
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  pilotlight bench decode\n  pilotlight bench decode my.snapshot --threads 2 --tokens 256 --json"
)]
pub struct Decode {
    #[command(flatten)]
    pub alone: Alone,
    /// Tokens of a run, after a prompt of 16
    #[arg(long, default_value_t = 128, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=TOKENS_MAX))]
    pub tokens: u32,
}

/// A prompt with the model alone in this process, beside what this machine can multiply
///
/// No HTTP, no engine, no sampling. Model and arithmetic take turns; the fraction is the time that the prompt's operations would
/// take at the best rates, over the model's median time. Matrices count in the numbers that the kernels multiply them in (int8,
/// bf16 or f32), attention in f32; what stands between them does not count.
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  pilotlight bench prefill\n  pilotlight bench prefill my.snapshot --threads 2 --tokens 2048 --json"
)]
pub struct Prefill {
    #[command(flatten)]
    pub alone: Alone,
    /// Tokens of the prompt, computed 512 at a time as the engine does
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=TOKENS_MAX))]
    pub tokens: u32,
}

/// What the benches of the model alone have in common.
#[derive(Debug, Args)]
pub struct Alone {
    /// The snapshot [default: that of smollm2, pulled and sealed if need be]
    pub file: Option<PathBuf>,
    /// How often; one more run before them warms
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,
    /// Threads that compute [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// What keys and values are kept in [default: f32 for weights sealed in f32, else f16]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub kv_format: Option<KvFormat>,
    /// Instructions that the kernels use at most, for comparisons: portable, avx2, avx512-vnni [default: the best there are]
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub instruction_set: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
