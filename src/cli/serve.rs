//! The shape of the commands that answer requests: `serve`, `run` and the hidden `runtime`.

use super::values::{ModelArg, address, duration, model, sequences, size};
use crate::{
    commands::operator_key,
    exit::{Error, Result},
};
use activator::slices::cores::Cores;
use clap::{Args, FromArgMatches, ValueEnum};
use std::{ffi::OsString, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

const SERVE_EXAMPLES: &str = "\
EXAMPLES:
  pilotlight serve --model smollm2                            a model of the store
  pilotlight serve --model tiny=./tiny.snapshot --idle 5m     a snapshot, under a name of your own
  pilotlight serve --listen 127.0.0.1:0 --admin 127.0.0.1:0   all models of the store, on free ports
  pilotlight serve --config pilotlight.toml                   models, tenants and bounds of a file (pilotlight config example)

  curl http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' \\
    -d '{\"model\":\"smollm2\",\"messages\":[{\"role\":\"user\",\"content\":\"Hello!\"}]}'";

/// Serve models over HTTP: each wakes when somebody asks and is gone when nobody does
#[derive(Clone, Debug, Args)]
#[command(after_help = SERVE_EXAMPLES)]
pub struct Serve {
    /// What to serve, to whom and within which bounds; read again when it changes, or on SIGHUP. What a flag says counts more
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the OpenAI API listens; port 0 picks a free one [default: 127.0.0.1:8080, or 0.0.0.0:$PORT]
    #[arg(long, value_name = "ADDR:PORT", value_parser = address)]
    pub listen: Option<SocketAddr>,
    /// Where metrics and slots are shown [default: 127.0.0.1:9464]
    #[arg(long, value_name = "ADDR:PORT", value_parser = address)]
    pub admin: Option<SocketAddr>,
    /// A snapshot and the name clients ask for, or a model of the store; repeatable [default: those of the configuration, else all sealed
    /// models of the store]
    #[arg(long = "model", value_name = "NAME=FILE", value_parser = model)]
    pub models: Vec<ModelArg>,
    /// Serve who shows no API key, although there are tenants, or although --listen can be reached from other machines
    #[arg(long)]
    pub anonymous: bool,
    /// How long a model stays after its last request [default: 30s]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub idle: Option<Duration>,
    /// Processes that wait without a model, to save the launch [default: 0: nothing runs at zero]
    #[arg(long, value_name = "N")]
    pub standby: Option<usize>,
    /// Memory that each of these has ready for an encrypted snapshot to be decrypted into: most of what encryption costs a first token is the
    /// system's giving of memory. About as much as the snapshot has [default: 0]
    #[arg(long, value_parser = size, value_name = "SIZE")]
    pub standby_memory: Option<u64>,
    /// Requests held for one cold model at most; more are answered 429 [default: 10000]
    #[arg(long, value_name = "N")]
    pub hold_max: Option<usize>,
    /// When a held stream gets its headers, so that proxies see life [default: 2s]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub early_headers_after: Option<Duration>,
    /// How long a model may take to become ready before its process is ended [default: 2m]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub start_timeout: Option<Duration>,
    /// How long a drain may take before what still runs is cut [default: 1m]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub drain_timeout: Option<Duration>,
    /// A request's deadline where it names none [default: 5m]
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub timeout: Option<Duration>,
    /// The largest request body that is read [default: 16MiB]
    #[arg(long, value_parser = size, value_name = "SIZE")]
    pub body_max: Option<u64>,
    /// Record who asked which model when, and what came of it; never what was said (pilotlight audit verify)
    #[arg(long, value_name = "FILE")]
    pub audit: Option<PathBuf>,
    #[command(flatten)]
    pub engine: Engine,
    /// For debugging only: runtimes may open files and sockets, execute programs, be traced, and leave core files
    #[arg(long)]
    pub no_confine: bool,
    /// End when this process does: for commands that serve as a part of their work
    #[arg(long, hide = true, value_name = "PID")]
    pub exit_with: Option<i32>,
}

/// Serve one snapshot by one runtime alone: no activator, always there
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  pilotlight run smollm2.snapshot\n  pilotlight run smollm2.snapshot --listen 127.0.0.1:0 --threads 4"
)]
pub struct Run {
    /// The snapshot
    pub file: PathBuf,
    /// Where the OpenAI API listens; port 0 picks a free one [default: 127.0.0.1:8080, or 0.0.0.0:$PORT]
    #[arg(long, value_name = "ADDR:PORT", value_parser = address)]
    pub listen: Option<SocketAddr>,
    #[command(flatten)]
    pub engine: Engine,
}

/// What keys and values are kept in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KvFormat {
    F32,
    F16,
    Q8,
}

impl KvFormat {
    /// For the kernels.
    pub fn of_kernels(self) -> kernels::KvFormat {
        match self {
            Self::F32 => kernels::KvFormat::F32,
            Self::F16 => kernels::KvFormat::F16,
            Self::Q8 => kernels::KvFormat::Q8,
        }
    }

    /// For people, and for the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8 => "q8",
        }
    }
}

/// What a runtime may use.
#[derive(Clone, Debug, Args)]
#[cfg_attr(test, derive(Default))]
pub struct Engine {
    /// Threads that compute [default: one for each core; under `serve`, of its slice]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Memory for keys and values [default: chosen from the model's context length]
    #[arg(long, value_parser = size, value_name = "SIZE")]
    pub kv_memory: Option<u64>,
    /// What keys and values are kept in; q8 needs half the memory of f16 [default: f32 for weights sealed in f32, else f16]
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub kv_format: Option<KvFormat>,
    /// What computes: cpu, cuda:N or vulkan; the latter two in builds with the feature of their name, and not run on a GPU. `serve --device cuda`
    /// puts runtimes on all GPUs and MIG instances that there are, or on those of [[slices]]. Seal for them with --target gpu [default: cpu]
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<models::ComputeDevice>,
    /// Instructions that the kernels use at most, for comparisons: portable, avx2, avx512-vnni [default: the best there are]
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    pub instruction_set: Option<String>,
    /// Sequences that run at the same time, at most 4096 [default: 64]
    #[arg(long, value_parser = sequences, value_name = "N")]
    pub max_sequences: Option<usize>,
    /// Keep keys and values in this folder, encrypted, so that a conversation goes on where it was after the model went to zero; and what durable
    /// guests keep
    #[arg(long, value_name = "DIR")]
    pub kv_dir: Option<PathBuf>,
    /// Disk for keys and values, for each model at most; what guests keep is bounded by itself
    #[arg(long, value_parser = size, value_parser = size, value_name = "SIZE", default_value = "4GiB", requires = "kv_dir")]
    pub kv_disk: u64,
    /// 32 bytes they are encrypted with [default: those of the file `key` in the folder, made when it is first used]
    #[arg(long, value_name = "FILE", requires = "kv_dir")]
    pub kv_key: Option<PathBuf>,
    /// The operator's key of encrypted snapshots, as `seal --encrypt-key` has it
    #[arg(long, value_name = "FILE|command:PROGRAM")]
    pub decrypt_key: Option<PathBuf>,
}

impl Engine {
    /// For the runtime. Opens the folder of keys and values, and makes its key where there is none.
    ///
    /// # Errors
    /// That folder or key cannot be opened.
    pub fn options(&self) -> Result<runtime::Options> {
        let folder = |path: &PathBuf| {
            let opened = runtime::Folder::open(path, self.kv_key.as_deref(), self.kv_disk);
            opened.map_err(|error| {
                Error::file(format!("opening the folder of keys and values ({})", path.display()), error)
            })
        };
        Ok(runtime::Options {
            threads: self.threads,
            kv_memory_bytes: self.kv_memory,
            instruction_set: self.instruction_set.clone(),
            kv_format: self.kv_format.map(KvFormat::of_kernels),
            max_sequences: self.max_sequences,
            device: self.device.unwrap_or_default(),
            decrypt_key: operator_key(self.decrypt_key.as_deref())?,
            kv_folder: self.kv_dir.as_ref().map(folder).transpose()?.map(Arc::new),
            confined: false,
            memory_bytes: None,
            ready_memory_bytes: 0,
            waits: false,
        })
    }

    /// The same as words, for a process that this one launches.
    pub fn words(&self) -> Vec<OsString> {
        let threads = self.threads.map(|n| ["--threads".into(), n.to_string()]);
        let memory = self.kv_memory.map(|n| ["--kv-memory".into(), n.to_string()]);
        let format = self.kv_format.map(|format| ["--kv-format".into(), format.word().to_owned()]);
        let instructions = self.instruction_set.clone().map(|name| ["--instruction-set".into(), name]);
        let sequences = self.max_sequences.map(|n| ["--max-sequences".into(), n.to_string()]);
        let device = self.device.map(|device| ["--device".into(), device.to_string()]);
        let words = [threads, memory, format, instructions, sequences, device];
        let words = words.into_iter().flatten().flatten().map(OsString::from);
        let folder = self.kv_dir.iter().flat_map(|path| ["--kv-dir".into(), path.into()]);
        let disk = self.kv_dir.iter().flat_map(|_| ["--kv-disk".into(), self.kv_disk.to_string().into()]);
        let key = self.kv_key.iter().flat_map(|path| ["--kv-key".into(), path.into()]);
        let decrypt = self.decrypt_key.iter().flat_map(|path| ["--decrypt-key".into(), path.into()]);
        words.chain(folder).chain(disk).chain(key).chain(decrypt).collect()
    }
}

/// One runtime, launched by an activator with its sockets inherited
#[derive(Debug, Args)]
pub struct RuntimeArgs {
    #[command(flatten)]
    pub engine: Engine,
    /// As `serve` has it
    #[arg(long)]
    pub no_confine: bool,
    /// Cores of its slice
    #[arg(long, value_name = "LIST", hide = true)]
    pub cores: Option<Cores>,
    /// Memory of its slice
    #[arg(long, value_parser = size, value_name = "SIZE", hide = true)]
    pub memory_limit: Option<u64>,
    /// A model is ordered later
    #[arg(long, hide = true)]
    pub waits: bool,
    /// Memory to have ready while it waits
    #[arg(long, value_parser = size, value_name = "SIZE", hide = true, default_value = "0")]
    pub ready_memory: u64,
}

impl RuntimeArgs {
    /// What it gets of the machine.
    pub fn share(&self) -> runtime::Share {
        let cores = self.cores.as_ref().map(Cores::numbers).unwrap_or_default();
        runtime::Share { cores, memory_bytes: self.memory_limit }
    }

    /// Parses `runtime …` with a parser that knows nothing else.
    pub fn parse_alone(words: &[OsString]) -> std::result::Result<Self, clap::Error> {
        let parser = Self::augment_args(clap::Command::new("runtime"));
        Self::from_arg_matches(&parser.try_get_matches_from(words)?)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_engines_words_mean_the_same_engine() {
        let engine = Engine {
            threads: Some(2),
            kv_memory: Some(1 << 20),
            kv_format: Some(KvFormat::Q8),
            instruction_set: Some("avx2".into()),
            max_sequences: Some(8),
            device: Some(models::ComputeDevice::Cuda(3)),
            kv_dir: Some("kv".into()),
            kv_disk: 7 << 20,
            kv_key: Some("kv.key".into()),
            decrypt_key: Some("operator.key".into()),
        };
        let words: Vec<OsString> = std::iter::once("runtime".into()).chain(engine.words()).collect();
        let again = RuntimeArgs::parse_alone(&words).unwrap().engine;
        assert_eq!(format!("{again:?}"), format!("{engine:?}"));
        assert!(Engine::default().words().is_empty());
    }

    #[test]
    fn a_runtimes_slice_is_what_the_activator_says_of_it() {
        let words = "runtime --threads 2 --cores 0-1,4 --memory-limit 4096 --waits --ready-memory 8192".split(' ');
        let words: Vec<_> = words.map(OsString::from).collect();
        let arguments = RuntimeArgs::parse_alone(&words).unwrap();
        assert_eq!(arguments.share(), runtime::Share { cores: vec![0, 1, 4], memory_bytes: Some(4096) });
        assert_eq!((arguments.waits, arguments.ready_memory), (true, 8192));
        assert_eq!(RuntimeArgs::parse_alone(&words[..1]).unwrap().share(), runtime::Share::default());
    }

    #[test]
    fn more_sequences_than_a_step_has_room_for_are_refused() {
        for (number, taken) in [("1", true), ("4096", true), ("0", false), ("4097", false), ("many", false)] {
            let words = ["runtime", "--max-sequences", number].map(OsString::from);
            assert_eq!(RuntimeArgs::parse_alone(&words).is_ok(), taken, "{number}");
        }
    }
}
