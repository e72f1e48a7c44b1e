//! A snapshot's model alone in this process: no HTTP, no engine, no sampling.
//!
//! **Invariant:** nothing is computed before every byte of the snapshot is verified.

use crate::{
    cli,
    exit::{Error, Result},
    output,
    progress::Progress,
};
use kernels::BLOCK_TOKENS;
use models::{Batch, Cost, Kv, Logits, Model, Segment};
use serde_json::{Map, Value, json};
use snapshot::Snapshot;
use std::{
    hint::black_box,
    path::Path,
    time::{Duration, Instant},
};

/// Rows of one step at most, as in the engine.
const STEP_ROWS: usize = 512;

/// The model, and memory for one sequence.
pub struct Alone {
    name: String,
    model: Model,
    kv: Kv,
    logits: Logits,
    kv_format: cli::KvFormat,
    /// What its tokens cost.
    pub cost: Cost,
}

impl Alone {
    /// Restores, for a sequence of `tokens` tokens, with the threads and formats that `args` ask for.
    ///
    /// # Errors
    /// Whatever is wrong with the snapshot; a sequence that is longer than the model's context.
    pub fn restore(file: &Path, args: &cli::Alone, tokens: usize) -> Result<Self> {
        configure(args)?;
        if !file.exists() {
            return Err(Error::NoFile(file.into()));
        }
        let named = |source| Error::SnapshotFile { path: file.into(), source };
        let snapshot = Snapshot::open(file).map_err(named)?;
        let mut progress = Progress::new();
        let step = format!("verifying {}", file.display());
        snapshot.verify_all(&mut |done, total| progress.at(&step, done, Some(total))).map_err(named)?;
        let kv_default = if snapshot.weights() == "f32" { cli::KvFormat::F32 } else { cli::KvFormat::F16 };
        let kv_format = args.kv_format.unwrap_or(kv_default);
        let model = Model::restore(&snapshot)?.with_kv_format(kv_format.of_kernels());
        let context = model.config().context_length;
        if tokens > context {
            return Err(Error::Usage(format!("a sequence of {tokens} tokens, where the model has room for {context}")));
        }
        let kv = model.new_kv(tokens.div_ceil(BLOCK_TOKENS));
        let cost = Cost::new(&model, &snapshot)?;
        Ok(Self { name: snapshot.model().to_owned(), model, kv, logits: Logits::default(), kv_format, cost })
    }

    /// Computes the positions `from..from + tokens` in as few steps as the engine would, and the last one's logits.
    pub fn prefill(&mut self, from: usize, tokens: usize) -> Duration {
        let begun = Instant::now();
        for first in (from..from + tokens).step_by(STEP_ROWS) {
            self.step(first, STEP_ROWS.min(from + tokens - first));
        }
        begun.elapsed()
    }

    /// Computes the positions `from..from + tokens` one by one, and the logits of each.
    pub fn decode(&mut self, from: usize, tokens: usize) -> Duration {
        let begun = Instant::now();
        (from..from + tokens).for_each(|position| self.step(position, 1));
        begun.elapsed()
    }

    fn step(&mut self, position: usize, rows: usize) {
        let vocab = self.model.config().vocab_size;
        // Spread over the vocabulary; 7919 is a prime.
        let tokens = (position..position + rows).map(|position| (position * 7919 % vocab) as u32).collect();
        let blocks = (0..self.kv.blocks() as u32).collect();
        let segment = Segment { row: 0, rows, position, length: position + rows, blocks };
        let batch = Batch { tokens, segments: vec![segment], wanted: vec![rows - 1] };
        self.model.forward_into(&mut self.kv, &batch, &mut self.logits);
        black_box(self.logits.row(0));
    }

    /// What was measured, for the head of a report.
    pub fn facts(&self) -> Map<String, Value> {
        let facts = json!({
            "model": self.name,
            "threads": kernels::limits::threads(),
            "instruction_set": kernels::instruction_set(),
            "kv_format": self.kv_format.word(),
        });
        match facts {
            Value::Object(facts) => facts,
            _ => unreachable!("an object was made"),
        }
    }
}

/// Threads, instructions and the allocator, before anything is computed.
fn configure(args: &cli::Alone) -> Result<()> {
    if let Some(name) = &args.instruction_set {
        kernels::set_instruction_set(name).map_err(|error| Error::Usage(format!("--instruction-set: {error}")))?;
    }
    if let Some(threads) = args.threads {
        kernels::set_threads(threads.into());
    }
    runtime::keep_what_is_freed();
    Ok(())
}

/// The first line of a report for people.
pub fn print_head(facts: &Value, what: &str) -> Result<()> {
    let word = |key: &str| facts[key].as_str().unwrap_or_default();
    output::line(format_args!(
        "{}: {what}, {} threads, {}, keys and values in {}",
        word("model"),
        facts["threads"],
        word("instruction_set"),
        word("kv_format")
    ))
}
