//! How fast a sealed model computes, without engine, HTTP or processes: `speed FILE.snapshot [PROMPT] [DECODE] [SEQUENCES…]`.
//!
//! Prints restore time, prefill and decode rates, where the time of a step goes (its matrices and its attention timed
//! alone, the rest by difference), what a step costs more behind the prompt than behind nothing, and the resident memory at the end.
#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Tensor, TensorData};
use kernels::limits::Memory;
use kernels::{BLOCK_TOKENS, Format, KvFormat, KvLayer, Matrix, Packing, Scores};
use models::{Batch, Kv, Logits, Model, ModelConfig, Segment};
use snapshot::Snapshot;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The best of so many repetitions counts: the others shared the machine.
const REPETITIONS: usize = 5;
/// Read to see how fast memory is: more than caches hold.
const READ_BYTES: usize = 256 << 20;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().expect("usage: speed FILE.snapshot [PROMPT] [DECODE] [SEQUENCES…]");
    let mut number = |default| arguments.next().map_or(default, |a| a.parse::<usize>().unwrap());
    let (prompt, decode) = (number(512), number(64));

    let snapshot = Snapshot::open(Path::new(&file)).unwrap();
    let start = Instant::now();
    let model = Model::restore(&snapshot).unwrap();
    println!("restore            {:8.2} ms, {} tensors", millis(start.elapsed()), snapshot.tensors().len());
    println!("instruction set    {}", kernels::instruction_set());
    snapshot.verify_in_background(2).wait().unwrap();

    let mut run = Run::new(&model, prompt + decode);
    let parts = Parts::new(&snapshot, model.config());
    let prefill = best(|| {
        run.step(1, prompt, 0);
    });
    report("prefill", prompt, prefill, parts.time(prompt, 0));
    let step = typical((prompt..prompt + decode).map(|position| run.step(1, 1, position)));
    report("decode", 1, step, parts.time(1, prompt + decode / 2));
    run.far_and_near(prompt, decode);
    let others: Vec<usize> = arguments.map(|a| a.parse().unwrap()).collect();
    for sequences in if others.is_empty() { vec![2, 4, 8] } else { others } {
        let step = typical((0..decode).map(|position| run.step(sequences, 1, position)));
        let rate = sequences as f64 / step.as_secs_f64();
        println!("decode {sequences:2} at once   {rate:8.1} tokens/s, {:.3} ms a step", millis(step));
    }
    println!("resident           {}", resident());
}

/// A model, one sequence's blocks, and steps over them.
struct Run<'a> {
    model: &'a Model,
    kv: Kv,
    logits: Logits,
    blocks: usize,
}

impl<'a> Run<'a> {
    fn new(model: &'a Model, positions: usize) -> Self {
        let blocks = positions.div_ceil(BLOCK_TOKENS);
        Self { model, kv: model.new_kv(8 * blocks), logits: Logits::default(), blocks }
    }

    /// `rows` new tokens from `position` on in each of so many sequences.
    fn step(&mut self, sequences: usize, rows: usize, position: usize) -> Duration {
        let token = |i: usize| (7 + 31 * i % 1000) as u32 % self.model.config().vocab_size as u32;
        let segment = |s: usize| {
            let blocks = (s * self.blocks..(s + 1) * self.blocks).map(|b| b as u32).collect();
            Segment { row: s * rows, rows, position, length: position + rows, blocks }
        };
        let batch = Batch {
            tokens: (position..position + sequences * rows).map(token).collect(),
            segments: (0..sequences).map(segment).collect(),
            wanted: (0..sequences).map(|s| (s + 1) * rows - 1).collect(),
        };
        let start = Instant::now();
        self.model.forward_into(&mut self.kv, &batch, &mut self.logits);
        std::hint::black_box(self.logits.row(0)[0]);
        start.elapsed()
    }
}

impl Run<'_> {
    /// What a step behind `far` positions takes more than one behind none, beside reading their keys and values once at the rate at which memory is
    /// read: all by turns, medians.
    fn far_and_near(&mut self, far: usize, rounds: usize) {
        let memory = Memory::new(READ_BYTES);
        let (mut more, mut rates) = (Vec::new(), Vec::new());
        for i in 0..rounds {
            let (far, near) = (self.step(1, 1, far + i), self.step(1, 1, i));
            more.push(millis(far) - millis(near));
            rates.push(memory.read());
        }
        let bytes = (far / BLOCK_TOKENS * self.model.kv_block_bytes()) as f64;
        let (more, rate) = (median(more), median(rates));
        let read = bytes / rate * 1e3;
        println!(
            "keys and values    {more:8.2} ms more at {far} positions; {read:.2} ms to read {:.1} MB once at {:.1} GB/s: {:.2} times",
            bytes / 1e6,
            rate / 1e9,
            more / read
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The model's matrices and an attention layer of its shape, to be timed alone.
struct Parts {
    matrices: Vec<Matrix>,
    head: Matrix,
    config: ModelConfig,
    kv_format: KvFormat,
    device: Device,
}

impl Parts {
    fn new(snapshot: &Arc<Snapshot>, config: &ModelConfig) -> Self {
        let device = Device::flex();
        let matrix = |t: &snapshot::Tensor| {
            let (n, k) = (t.shape[0] as usize, t.shape[1] as usize);
            let (format, packing) = (Format::from_name(&t.dtype).unwrap(), Packing::from_name(&t.layout).unwrap());
            Matrix::packed(snapshot.tensor_bytes(t), format, packing, n, k, &device).unwrap()
        };
        let is_layer = |t: &&snapshot::Tensor| t.shape.len() == 2 && t.name.starts_with("model.layers.");
        let head = if config.tied_embedding { "model.embed_tokens.weight" } else { "lm_head.weight" };
        let head = matrix(snapshot.tensors().iter().find(|t| t.name == head).unwrap());
        let matrices = snapshot.tensors().iter().filter(is_layer).map(matrix).collect();
        let kv_format = if snapshot.weights() == "f32" { KvFormat::F32 } else { KvFormat::F16 };
        Self { matrices, head, config: config.clone(), kv_format, device }
    }

    /// Times of all linear operations and all attention of one step of `rows` rows at `position`.
    fn time(&self, rows: usize, position: usize) -> (Duration, Duration) {
        let linear = best(|| {
            self.matrices.iter().for_each(|w| drop(kernels::linear(self.input([rows, w.k()]), w)));
            drop(kernels::linear(self.input([1, self.head.k()]), &self.head));
        });
        let ModelConfig { layers, heads, kv_heads, head_dim, .. } = self.config;
        let blocks = (position + rows).div_ceil(BLOCK_TOKENS);
        let mut kv = KvLayer::new(blocks, kv_heads, head_dim, self.kv_format, &self.device);
        let segment = kernels::Segment { row: 0, rows, position, blocks: (0..blocks as u32).collect() };
        let attention = best(|| {
            let q = self.input([rows, heads, head_dim]);
            let kv_rows = self.input([rows, kv_heads, head_dim]);
            let segments = &Arc::from([segment.clone()]);
            let turns = [self.input([rows, head_dim / 2]), self.input([rows, head_dim / 2])];
            drop(kernels::attention(q, kv_rows.clone(), kv_rows, turns, &mut kv, segments, Scores::scaled(0.1)));
        });
        (linear, attention * layers as u32)
    }

    fn input<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        let values = (0..shape.iter().product()).map(|i| (i % 17) as f32 / 17.0).collect::<Vec<_>>();
        Tensor::from_data(TensorData::new(values, shape), &self.device)
    }
}

/// The median: a decode step is as long as the one before.
fn typical(steps: impl Iterator<Item = Duration>) -> Duration {
    let mut steps: Vec<_> = steps.collect();
    steps.sort();
    println!(
        "                   steps: fastest {:.3} ms, slowest {:.3} ms",
        millis(steps[0]),
        millis(steps[steps.len() - 1])
    );
    steps[steps.len() / 2]
}

fn best(mut work: impl FnMut()) -> Duration {
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    (0..REPETITIONS).map(time).min().expect("at least one repetition")
}

fn report(what: &str, tokens: usize, step: Duration, (linear, attention): (Duration, Duration)) {
    let rate = tokens as f64 / step.as_secs_f64();
    let rest = step.saturating_sub(linear + attention);
    println!(
        "{what:18} {rate:8.1} tokens/s, {:.3} ms a step: linear {:.3}, attention {:.3}, rest {:.3}",
        millis(step),
        millis(linear),
        millis(attention),
        millis(rest),
    );
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// `VmRSS` and its parts, as Linux tells them.
fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let lines = status.lines().filter(|l| l.starts_with("VmRSS") || l.starts_with("Rss") || l.starts_with("VmHWM"));
    lines.map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", ")
}
