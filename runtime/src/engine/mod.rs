//! The engine: token ids in, token ids out, several sequences at once.
//!
//! One thread ([`worker`]) owns the model, the KV blocks and the running set: drain commands → admit → one step → send →
//! retire. Everything else here is pure and holds no tensors. **Invariant:** knows no text, no HTTP and no Wasm.
//!
//! Cancelling is dropping: when an [`Output`] is gone, its sequence ends before the next step and its blocks are free.

mod blocks;
mod draft;
mod gate;
mod guide;
mod handle;
mod keep;
mod logprobs;
mod names;
mod plan;
mod random;
mod sampler;
mod sequence;
mod task;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod worker;

pub use gate::{Gate, Verdict};
pub use guide::{Guide, Next};
pub use handle::{Engine, EngineStats, Output, Refused};
pub use keep::Keep;
pub use logprobs::Logprobs;
pub use names::{Name, Scope};
pub use random::splitmix64 as mix;
pub use sampler::Params;

use models::Batch;
use protocol::{ApiError, answer::FinishReason};
use std::time::{Duration, Instant};

/// What the engine computes with: a model and its KV pool.
pub trait Compute {
    /// One step over the batch; calls `row(i, logits)` for each wanted row `i` in order.
    fn forward(&mut self, batch: &Batch, row: &mut dyn FnMut(usize, &[f32]));

    /// What the keys of a sequence of so many tokens depend on beside them: only sequences with the same may share them, and
    /// one that grows into another is computed anew.
    fn regime(&self, _length: usize) -> u32 {
        0
    }

    /// Copies a block's keys and values to `out`.
    fn read_block(&mut self, block: u32, out: &mut [u8]);

    /// Puts back what that gave.
    fn write_block(&mut self, block: u32, bytes: &[u8]);

    /// How many positions of block `number` of a sequence of these tokens were computed before the process began.
    fn sealed(&self, _tokens: &[u32], _number: usize) -> usize {
        0
    }

    /// Fills `block` with them.
    fn write_sealed(&mut self, _block: u32, _tokens: &[u32], _number: usize) {}
}

/// What an engine begins with, made on its thread.
pub struct Loaded<C> {
    /// What it computes with.
    pub compute: C,
    /// Blocks of that.
    pub blocks: u32,
    /// Where full blocks are kept beyond the process, if anywhere.
    pub keep: Option<Box<dyn Keep>>,
}

/// Sequences of one engine at most: each may have a row in a step, and a step's memory grows with its rows.
pub const SEQUENCES_MAX: usize = 4096;

/// Sequences of one step, where nobody says.
pub const SEQUENCES_DEFAULT: usize = 64;

/// The engine's bounds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sequences in the running set.
    pub sequences: usize,
    /// Sequences that wait for a place or for blocks; as many may wait for their readers.
    pub waiting: usize,
    /// Rows of one step.
    pub rows: usize,
    /// Events of one sequence that its reader has not taken; then the sequence pauses until half of them are.
    pub events: usize,
    /// How long a reader may be behind before its sequence is cancelled.
    pub slow_reader: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sequences: SEQUENCES_DEFAULT,
            waiting: 16_384,
            rows: 512,
            events: 256,
            slow_reader: Duration::from_secs(30),
        }
    }
}

impl Limits {
    /// For so many sequences at once. A step has room for twice as many rows: where all decode but one, that one's prefill
    /// has half of it.
    pub fn with_sequences(sequences: usize) -> Self {
        let sequences = sequences.clamp(1, SEQUENCES_MAX);
        let rows = Self::default().rows.max(2 * sequences);
        Self { sequences, rows, ..Self::default() }
    }
}

/// One sequence to generate. All fields are checked by whoever submits it: ids within the vocabulary, a prompt that is
/// not empty, `prompt + max_tokens` within context and pool.
pub struct Job {
    /// Token ids.
    pub prompt: Vec<u32>,
    /// What was generated of it before, elsewhere; it goes on behind that.
    pub generated: Vec<u32>,
    /// Tokens to generate at most, those included; 0 where only the prompt is to be computed.
    pub max_tokens: usize,
    /// Tokens that end the generation; none where they are to be ignored.
    pub ends: Vec<u32>,
    /// How tokens are chosen.
    pub params: Params,
    /// `Some(k)`: log probabilities of each token and the `k` likeliest.
    pub logprobs: Option<usize>,
    /// The same of the prompt's tokens but the first, before anything is generated. Has an effect only with `logprobs`.
    pub score_prompt: bool,
    /// The prefix cache it may use and fill, if any.
    pub cache: Option<Scope>,
    /// May be guessed ahead; its tokens are the same either way.
    pub speculate: bool,
    /// The form its tokens must follow, if any.
    pub guide: Option<Box<dyn Guide>>,
}

/// What comes out of one sequence, in this order: `Prefilled`, `Scored` where asked for, `Token`…, then one of the others.
#[derive(Clone, Debug)]
pub enum Event {
    /// The prompt, and what was generated of it before, is in the KV blocks; how long that took since the sequence was admitted.
    Prefilled(Duration),
    /// Log probabilities of the prompt's tokens, from the second on.
    Scored(Vec<Logprobs>),
    /// A generated token.
    Token(Token),
    /// The sequence is complete.
    Finished(FinishReason),
    /// The engine cannot go on with it.
    Failed(ApiError),
}

/// A generated token.
#[derive(Clone, Debug)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Where asked for.
    pub logprobs: Option<Logprobs>,
    /// When it was sampled.
    pub at: Instant,
}

/// A step panicked; the engine's thread has answered every sequence and ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the engine panicked: {message}")]
pub struct Panicked {
    /// The panic's message.
    pub message: String,
}
