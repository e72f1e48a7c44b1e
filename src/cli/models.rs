//! The shape of the commands about model files: `demo`, `pull`, `seal`, `inspect`, `rm`.

use crate::exit;
use clap::{Args, ValueEnum};
use models::ComputeDevice;
use std::path::PathBuf;

/// Fetch a small model, seal it, serve it, ask once from zero and watch it return to zero
///
/// The answer goes to standard output, progress and the cold-start timeline to standard error.
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  pilotlight demo\n  pilotlight demo \"Why is the sky blue?\"\n  pilotlight demo 2>/dev/null       only the answer"
)]
pub struct Demo {
    /// What to ask
    #[arg(default_value = "What is a lighthouse for? Answer in two sentences.")]
    pub question: String,
    /// A model of the catalogue or the store
    #[arg(long, default_value = "smollm2")]
    pub model: String,
}

/// Fetch a model into the store, verified
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  pilotlight pull smollm2\n  pilotlight pull ./my-model.gguf --name mine\n  pilotlight pull hf://HuggingFaceTB/SmolLM2-135M-Instruct"
)]
pub struct Pull {
    /// A name of the catalogue, the path of a .gguf file or a Hugging Face folder, or hf://OWNER/MODEL[@REVISION]
    pub source: String,
    /// The name in the store; taken from the source if not given
    #[arg(long)]
    pub name: Option<String>,
}

/// Make a model's files one snapshot, from which it can be restored at once
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  pilotlight seal smollm2\n  pilotlight seal ./my-model -o my-model.snapshot --weights q8\n  pilotlight seal model.gguf -o reference.snapshot --weights f32\n  pilotlight seal model.gguf --target cpu:portable     (for machines of any kind)\n  pilotlight seal smollm2 --prefix system.json         (a system prompt that is there when the model wakes)\n  pilotlight seal smollm2 --kernels cuda               (for the GPU, whose kernels no start compiles)\n  pilotlight seal smollm2 --guest redact.wasm          (answers go through a guest)"
)]
pub struct Seal {
    /// A model of the store, a Hugging Face folder or a .gguf file
    pub model: String,
    /// The snapshot to write; in the store for a model of the store, else NAME.snapshot in this folder
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// How weights are kept
    #[arg(long, value_enum, default_value_t = Weights::Native)]
    pub weights: Weights,
    /// For which processors weights are laid out: cpu:avx512, cpu:avx2, cpu:portable, or gpu [default: this machine's]
    #[arg(long, value_name = "TARGET", value_parser = target)]
    pub target: Option<models::Target>,
    /// What many prompts begin with, to be computed now: a file of JSON messages (`[{"role":"system",…}]`), or of text
    #[arg(long, value_name = "FILE")]
    pub prefix: Option<PathBuf>,
    /// Compile the kernels of this CUDA device now (`cuda`, `cuda:N`), so that no start of this program on one of its kind compiles them;
    /// weights are laid out for a gpu then
    #[arg(long, value_name = "DEVICE", value_parser = cuda, conflicts_with = "prefix")]
    pub kernels: Option<ComputeDevice>,
    /// Encrypt the snapshot: the operator's key, 32 bytes or 64 hexadecimal digits, or a program that wraps keys, e.g. with a key service. The
    /// snapshot's own key lies beside it, wrapped by this one (FILE.key): who removes that has deleted the snapshot
    #[arg(long, value_name = "FILE|command:PROGRAM")]
    pub encrypt_key: Option<PathBuf>,
    /// A guest that requests and answers go through: a WebAssembly component, to which nothing is granted, or a .toml file that says which
    /// component, what it may do and how long. Several see requests in this order
    #[arg(long = "guest", value_name = "FILE.wasm|FILE.toml")]
    pub guests: Vec<PathBuf>,
}

impl Seal {
    /// For which processors.
    ///
    /// # Errors
    /// What is asked for is for two kinds of them.
    pub fn target(&self) -> exit::Result<models::Target> {
        match (self.target, self.kernels) {
            (None | Some(models::Target::Gpu), Some(_)) => Ok(models::Target::Gpu),
            (Some(target), Some(device)) => Err(exit::Error::Usage(format!(
                "--kernels {device} is for a snapshot of the GPU, and --target {} is none; leave one of them out",
                target.name()
            ))),
            (target, None) => Ok(target.unwrap_or_else(models::Target::here)),
        }
    }
}

fn cuda(word: &str) -> Result<ComputeDevice, String> {
    match word.parse()? {
        device @ ComputeDevice::Cuda(_) => Ok(device),
        other => Err(format!("kernels for {other}: only those for CUDA are compiled ahead")),
    }
}

fn target(word: &str) -> Result<models::Target, String> {
    let all = models::Target::ALL;
    all.into_iter().find(|target| target.name() == word).ok_or_else(|| {
        let known: Vec<_> = all.iter().map(|target| target.name()).collect();
        format!("this version seals for {}", known.join(", "))
    })
}

/// How a snapshot keeps its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Weights {
    /// As the model's makers published them
    Native,
    /// The reference: weights, activations and KV all float32
    F32,
    /// bfloat16
    Bf16,
    /// 8-bit blocks
    Q8,
    /// 4-bit blocks
    Q4,
}

impl Weights {
    /// The word on the command line and in the snapshot's file name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Q8 => "q8",
            Self::Q4 => "q4",
        }
    }
}

impl From<Weights> for models::Weights {
    fn from(weights: Weights) -> Self {
        match weights {
            Weights::Native => Self::Native,
            Weights::F32 => Self::F32,
            Weights::Bf16 => Self::Bf16,
            Weights::Q8 => Self::Q8,
            Weights::Q4 => Self::Q4,
        }
    }
}

/// Say what a snapshot holds
#[derive(Debug, Args)]
#[command(
    after_help = "EXAMPLES:\n  pilotlight inspect smollm2.snapshot\n  pilotlight inspect smollm2.snapshot --verify\n  pilotlight inspect smollm2.snapshot --json | jq .tensors[0]"
)]
pub struct Inspect {
    /// The snapshot
    pub file: PathBuf,
    /// Read all of it and check every byte; exit code 65 where one is wrong
    #[arg(long)]
    pub verify: bool,
    /// The operator's key of an encrypted snapshot, as `seal --encrypt-key` has it
    #[arg(long, value_name = "FILE|command:PROGRAM")]
    pub decrypt_key: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Delete a model and its snapshots from the store, and print the receipt
#[derive(Debug, Args)]
#[command(after_help = "EXAMPLES:\n  pilotlight rm smollm2\n  pilotlight rm smollm2 --json >> receipts.jsonl")]
pub struct Remove {
    /// The model's name in the store
    pub name: String,
    /// Print the receipt as JSON
    #[arg(long)]
    pub json: bool,
}
