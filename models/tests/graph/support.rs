//! Sequences over a KV pool, as the engine would keep them, and small helpers.

use kernels::BLOCK_TOKENS;
use models::{Batch, Kv, Logits, Model, Segment};

/// A model and a pool of blocks handed out from the end, so that no block table is `0, 1, 2, …`.
pub struct Pool {
    pub model: Model,
    kv: Kv,
    free: Vec<u32>,
}

/// One sequence: its block table and how many tokens it holds.
#[derive(Debug)]
pub struct Sequence {
    blocks: Vec<u32>,
    length: usize,
    /// Tokens of its prompt.
    prompt: usize,
}

/// New tokens of one sequence for a step, and which of them want logits.
pub struct Rows<'a> {
    pub sequence: &'a mut Sequence,
    pub tokens: &'a [u32],
    pub wanted: Wanted,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    All,
    Last,
    None,
}

impl Sequence {
    pub const fn new() -> Self {
        Self::with_prompt(0)
    }

    pub const fn with_prompt(prompt: usize) -> Self {
        Self { blocks: Vec::new(), length: 0, prompt }
    }
}

impl Pool {
    pub fn new(model: Model, blocks: usize) -> Self {
        let kv = model.new_kv(blocks);
        Self { model, kv, free: (0..blocks as u32).collect() }
    }

    /// One step; the wanted rows' logits in order.
    pub fn step(&mut self, parts: &mut [Rows]) -> Logits {
        let mut batch = Batch::default();
        for Rows { sequence, tokens, wanted } in parts {
            let (row, rows) = (batch.tokens.len(), tokens.len());
            let position = sequence.length;
            sequence.length += rows;
            while sequence.blocks.len() * BLOCK_TOKENS < sequence.length {
                sequence.blocks.push(self.free.pop().unwrap());
            }
            batch.tokens.extend_from_slice(tokens);
            match wanted {
                Wanted::All => batch.wanted.extend(row..row + rows),
                Wanted::Last => batch.wanted.push(row + rows - 1),
                Wanted::None => {}
            }
            let (length, blocks) = (sequence.prompt.max(sequence.length), sequence.blocks.clone());
            batch.segments.push(Segment { row, rows, position, length, blocks });
        }
        self.model.forward(&mut self.kv, &batch)
    }

    /// Logits after every token of `tokens`, computed alone in chunks of `chunk` tokens.
    pub fn all_logits(&mut self, tokens: &[u32], chunk: usize) -> Vec<Vec<f32>> {
        let mut sequence = Sequence::with_prompt(tokens.len());
        let mut rows = Vec::new();
        for tokens in tokens.chunks(chunk) {
            let logits = self.step(&mut [Rows { sequence: &mut sequence, tokens, wanted: Wanted::All }]);
            rows.extend((0..tokens.len()).map(|i| logits.row(i).to_vec()));
        }
        self.release(sequence);
        rows
    }

    /// Greedy generation of `count` tokens after each prompt, all sequences decoding in the same steps: for each prompt,
    /// the logits every token was chosen from. Prompts are prefilled in chunks of `chunk`.
    pub fn greedy(&mut self, prompts: &[&[u32]], count: usize, chunk: usize) -> Vec<Vec<Vec<f32>>> {
        let mut sequences = Vec::new();
        let mut steps = Vec::new();
        for prompt in prompts {
            let mut sequence = Sequence::with_prompt(prompt.len());
            let mut last = Vec::new();
            for tokens in prompt.chunks(chunk) {
                let logits = self.step(&mut [Rows { sequence: &mut sequence, tokens, wanted: Wanted::Last }]);
                last = logits.row(0).to_vec();
            }
            sequences.push(sequence);
            steps.push(vec![last]);
        }
        for _ in 1..count {
            let next: Vec<u32> = steps.iter().map(|s| argmax(&s[s.len() - 1])).collect();
            let rows = |(sequence, token)| Rows { sequence, tokens: std::slice::from_ref(token), wanted: Wanted::Last };
            let logits = self.step(&mut sequences.iter_mut().zip(&next).map(rows).collect::<Vec<_>>());
            steps.iter_mut().enumerate().for_each(|(i, s)| s.push(logits.row(i).to_vec()));
        }
        sequences.into_iter().for_each(|s| self.release(s));
        steps
    }

    pub fn release(&mut self, sequence: Sequence) {
        self.free.extend(sequence.blocks);
    }
}

/// The token with the largest logit, the first of equals.
pub fn argmax(logits: &[f32]) -> u32 {
    let best = (0..logits.len()).reduce(|best, i| if logits[i] > logits[best] { i } else { best });
    best.unwrap() as u32
}

/// `|got - want| ≤ tolerance × max(1, |want|)`, or a panic that says where.
pub fn assert_close(got: f32, want: f64, tolerance: f64, what: &dyn std::fmt::Display) {
    let allowed = tolerance * want.abs().max(1.0);
    let difference = (f64::from(got) - want).abs();
    assert!(difference <= allowed, "{what}: {got} where {want} is expected (off by {difference:.2e})");
}

/// Log-probabilities of the next token.
pub fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits.iter().map(|&l| f64::from(l - largest).exp()).sum();
    logits.iter().map(|&l| l - largest - total.ln() as f32).collect()
}

/// The chosen tokens are `want`, up to the first whose choice was closer than `margin`: behind it the texts may differ.
pub fn assert_greedy(steps: &[Vec<f32>], want: &[u32], margins: &[f64], margin: f64, what: &str) {
    for (i, (step, &want)) in steps.iter().zip(want).enumerate() {
        let got = argmax(step);
        if got != want {
            assert!(margins[i] <= margin, "{what}: token {i} is {got}, not {want}, at a margin of {}", margins[i]);
            return;
        }
    }
}
