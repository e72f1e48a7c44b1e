//! The shape of the command line, and nothing else: no file is looked at, no variable read, no default decided that
//! depends on either.

mod bench;
mod guest;
mod models;
mod operate;
mod serve;
pub mod values;

pub use bench::{Alone, Bench, ColdStart, Decode, Prefill, Restore, What};
pub use guest::{Guest, GuestBench, GuestBuild, GuestNew, GuestPull, GuestTest};
pub use models::{Demo, Inspect, Pull, Remove, Seal, Weights};
pub use operate::{Audit, Config, Key};
pub use serve::{KvFormat, Run, RuntimeArgs, Serve};

use crate::exit;
use clap::{Args, Parser, Subcommand, error::ErrorKind};
use std::{ffi::OsString, process::ExitCode};

/// A serverless, scale-to-zero inference runtime: a model costs nothing while nobody asks.
#[derive(Debug, Parser)]
#[command(name = "pilotlight", version, max_term_width = 100, arg_required_else_help = true, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
EXAMPLES:
  pilotlight demo                       everything at once, with a small model
  pilotlight pull smollm2               fetch a model
  pilotlight seal smollm2               make it a snapshot
  pilotlight serve --model smollm2      serve it, from zero and back to zero

EXIT CODES:
  0 done   64 usage or configuration   65 bad data   66 no such file or model   69 unavailable   70 internal   74 I/O";

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    Demo(Demo),
    Pull(Pull),
    Seal(Seal),
    Inspect(Inspect),
    Serve(Box<Serve>),
    Run(Run),
    #[command(hide = true)]
    Runtime(RuntimeArgs),
    Ls(List),
    Rm(Remove),
    #[command(subcommand)]
    Guest(Guest),
    #[command(subcommand)]
    Config(Config),
    #[command(subcommand)]
    Key(Key),
    #[command(subcommand)]
    Audit(Audit),
    Doctor(Doctor),
    Bench(Bench),
}

/// List the models of the store, with the snapshots sealed from them
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:\n  pilotlight ls\n  pilotlight ls --json | jq -r '.[].name'")]
pub struct List {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Say what this machine offers, what is missing and how to get it
///
/// Disk, memory and arithmetic are measured, not looked up: this takes about two seconds.
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:\n  pilotlight doctor\n  pilotlight doctor --json")]
pub struct Doctor {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The command meant by `words`, or the exit code after clap has said what is wrong with them (or has helped).
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Command, ExitCode> {
    let words: Vec<OsString> = words.into_iter().collect();
    let parsed = match words.get(1) {
        // On the cold-start path: the parsers of the other commands are not built.
        Some(word) if word == "runtime" => RuntimeArgs::parse_alone(&words[1..]).map(Command::Runtime),
        _ => Cli::try_parse_from(words).map(|cli| cli.command),
    };
    parsed.map_err(|error| {
        // A reader that left is no reason to fail.
        let _ = error.print();
        ExitCode::from(code(error.kind()))
    })
}

fn code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => 0,
        _ => exit::USAGE,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    fn words(line: &str) -> Vec<OsString> {
        std::iter::once("pilotlight").chain(line.split(' ')).map(OsString::from).collect()
    }

    #[test]
    fn the_shape_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_visible_command_has_help_and_examples() {
        for command in Cli::command().get_subcommands().filter(|command| !command.is_hide_set()) {
            let mut leaves: Vec<_> = command.get_subcommands().collect();
            if leaves.is_empty() {
                leaves.push(command);
            }
            for leaf in leaves {
                let help = leaf.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("EXAMPLES:"), "{} has no examples", leaf.get_name());
            }
            assert!(command.get_about().is_some(), "{} says nothing about itself", command.get_name());
        }
    }

    #[test]
    fn serve_takes_what_the_surface_promises() {
        let line = "serve --listen 127.0.0.1:0 --admin 127.0.0.1:0 --model a=a.snapshot --model b --idle 500ms \
                    --standby 1 --hold-max 20 --early-headers-after 2s --drain-timeout 1m --timeout 300s";
        let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
        let Command::Serve(serve) = parse(words(&line)).unwrap() else { panic!("not serve") };
        assert_eq!((serve.models.len(), serve.standby, serve.hold_max), (2, Some(1), Some(20)));
        assert_eq!(serve.idle.unwrap().as_millis(), 500);
        assert_eq!(serve.drain_timeout.unwrap().as_secs(), 60);
    }

    #[test]
    fn runtime_is_parsed_without_the_rest() {
        let Command::Runtime(runtime) = parse(words("runtime --threads 2 --kv-memory 64MiB")).unwrap() else {
            panic!("not runtime")
        };
        assert_eq!((runtime.engine.threads, runtime.engine.kv_memory), (Some(2), Some(64 << 20)));
    }

    #[test]
    fn wrong_words_are_64_and_help_is_0() {
        let shown = |code: u8| format!("{:?}", ExitCode::from(code));
        for (line, expected) in [
            ("serve --confg x", 64),
            ("fly", 64),
            ("serve --idle never", 64),
            ("--help", 0),
            ("rm --help", 0),
            ("--version", 0),
        ] {
            assert_eq!(format!("{:?}", parse(words(line)).unwrap_err()), shown(expected), "{line}");
        }
    }
}
