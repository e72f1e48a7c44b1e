//! The graphs, behind one door: a [`Model`] turns a [`Batch`] of token ids into [`Logits`], over a [`Kv`] pool.
//!
//! **Invariants:** a row's logits have the same bits whatever else is in the batch; a step writes only the KV blocks its
//! segments name. **Absent:** which sequence owns which block (the engine's business), sampling, text.

mod attention;
mod decoder;
mod direct;
mod encoder;
mod experts;
mod layer;
mod linear;
mod mlp;
mod norm;
mod rope;

pub(crate) use attention::Attention;
pub(crate) use decoder::Decoder;
pub(crate) use direct::Direct;
pub use encoder::Encoder;
pub(crate) use encoder::{EncoderGraph, EncoderLayer, LayerNorm};
pub(crate) use experts::Experts;
pub(crate) use layer::{FeedForward, Layer};
pub(crate) use linear::Linear;
pub(crate) use mlp::Mlp;
pub(crate) use norm::RmsNorm;
pub(crate) use rope::Frequencies;

use crate::{ModelConfig, Uploading};
use burn::tensor::{Device, Tensor};
use kernels::{BLOCK_TOKENS, KvFormat, KvLayer};
use std::sync::Arc;

/// A restored model: tensors that point into the snapshot's mapping, ready to compute.
#[derive(Debug)]
pub struct Model {
    pub(crate) config: ModelConfig,
    pub(crate) graph: Decoder,
    /// The same on slices, where that is possible.
    pub(crate) direct: Option<Direct>,
    pub(crate) kv_format: KvFormat,
    pub(crate) device: Device,
    /// Weights on their way to the device; `None` where they are used in the mapping.
    pub(crate) uploading: Option<Uploading>,
}

impl Model {
    /// The model's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What its keys and values are kept in.
    pub fn kv_format(&self) -> KvFormat {
        self.kv_format
    }

    /// Weights on their way to the device; `None` where they are used in the mapping. A pass waits for those that it comes to; its results are
    /// worth something once all have arrived.
    pub fn uploading(&self) -> Option<&Uploading> {
        self.uploading.as_ref()
    }

    /// The same, with keys and values kept in another format.
    pub fn with_kv_format(self, kv_format: KvFormat) -> Self {
        Self { kv_format, ..self }
    }

    /// The same as a graph of tensors, on any device: what [`Model::forward`] is compared with.
    pub fn on_tensors(self) -> Self {
        Self { direct: None, ..self }
    }

    /// A KV pool of `blocks` blocks of [`kernels::BLOCK_TOKENS`] tokens over all layers, in memory that is not touched
    /// until a block is written.
    pub fn new_kv(&self, blocks: usize) -> Kv {
        let ModelConfig { layers, kv_heads, head_dim, .. } = self.config;
        let layer = |_| KvLayer::new(blocks, kv_heads, head_dim, self.kv_format, &self.device);
        Kv { layers: (0..layers).map(layer).collect(), blocks, memory: direct::Memory::default() }
    }

    /// Bytes of one block over all layers.
    pub fn kv_block_bytes(&self) -> usize {
        let ModelConfig { layers, kv_heads, head_dim, .. } = self.config;
        layers * KvLayer::block_bytes(kv_heads, head_dim, self.kv_format)
    }

    /// One step over the concatenated rows of all segments: writes their keys and values, returns the wanted logits.
    ///
    /// # Panics
    /// Where `batch` breaks the promises of [`Batch`] or names blocks that `kv` does not have.
    pub fn forward(&self, kv: &mut Kv, batch: &Batch) -> Logits {
        let mut logits = Logits::default();
        self.forward_into(kv, batch, &mut logits);
        logits
    }

    /// [`Model::forward`] into the memory there is: on a CPU nothing is allocated once `kv` and `logits` have seen their largest
    /// step of each thread. Models with experts, with biases of their gates, or with the exact GELU for a gate run as tensors and
    /// allocate.
    ///
    /// # Panics
    /// As [`Model::forward`].
    pub fn forward_into(&self, kv: &mut Kv, batch: &Batch, logits: &mut Logits) {
        batch.check(self.config.vocab_size, kv.blocks);
        logits.vocab = self.config.vocab_size;
        if batch.tokens.is_empty() {
            return logits.rows.clear();
        }
        match &self.direct {
            Some(direct) => direct.forward(&self.graph, batch, &mut kv.layers, &mut kv.memory, &mut logits.rows),
            None => {
                let arrived = |step| self.uploading.iter().for_each(|uploading| uploading.wait_for(step));
                let rows = self.graph.forward(batch, &mut kv.layers, &self.device, &arrived);
                let values = |rows: Tensor<2>| rows.into_data().try_to_vec().expect("logits are f32");
                logits.rows = rows.map_or_else(Vec::new, values);
            }
        }
    }
}

/// The keys and values of every sequence, in blocks: one [`KvLayer`] per layer, sharing one numbering of blocks.
#[derive(Debug)]
pub struct Kv {
    layers: Vec<KvLayer>,
    blocks: usize,
    /// Of the steps over it.
    memory: direct::Memory,
}

impl Kv {
    /// How many blocks there are; their numbers are `0..blocks`.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Bytes of one block in all layers.
    pub fn block_bytes(&self) -> usize {
        self.layers.iter().map(layer_block_bytes).sum()
    }

    /// Copies one block of all layers to `out`, layer after layer: what [`Kv::write_block`] takes for the same model and format.
    ///
    /// # Panics
    /// Where there is no such block, `out` has not [`Kv::block_bytes`], or the model is not on the CPU.
    pub fn read_block(&mut self, block: u32, out: &mut [u8]) {
        assert_eq!(out.len(), self.block_bytes(), "bytes of a block");
        let mut rest = out;
        for layer in &mut self.layers {
            let (part, others) = rest.split_at_mut(layer_block_bytes(layer));
            layer.read_block(block as usize, part);
            rest = others;
        }
    }

    /// Puts back what [`Kv::read_block`] gave.
    ///
    /// # Panics
    /// As that.
    pub fn write_block(&mut self, block: u32, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.block_bytes(), "bytes of a block");
        let half = self.layers.len() / 2;
        let (first, second) = self.layers.split_at_mut(half);
        let (first_bytes, second_bytes) = bytes.split_at(first.iter().map(layer_block_bytes).sum());
        if bytes.len() < BYTES_ALONE {
            write_layers(first, block, first_bytes);
            return write_layers(second, block, second_bytes);
        }
        // Most of the time goes into pages that nobody has touched before.
        std::thread::scope(|scope| {
            scope.spawn(|| write_layers(first, block, first_bytes));
            write_layers(second, block, second_bytes);
        });
    }
}

/// Blocks of fewer bytes are written by one thread.
const BYTES_ALONE: usize = 256 << 10;

fn write_layers(layers: &mut [KvLayer], block: u32, bytes: &[u8]) {
    let mut rest = bytes;
    for layer in layers {
        let (part, others) = rest.split_at(layer_block_bytes(layer));
        layer.write_block(block as usize, part);
        rest = others;
    }
}

fn layer_block_bytes(layer: &KvLayer) -> usize {
    KvLayer::block_bytes(layer.kv_heads(), layer.head_dim(), layer.format())
}

/// Consecutive rows of one sequence in a batch.
#[derive(Clone, Debug)]
pub struct Segment {
    /// First row in the batch.
    pub row: usize,
    /// Number of rows.
    pub rows: usize,
    /// Position of the first row in its sequence.
    pub position: usize,
    /// Tokens of the sequence: some rotations are others, from the first token on, once it is beyond the original context.
    pub length: usize,
    /// Block table: block `i` holds the positions from `i * BLOCK_TOKENS` on.
    pub blocks: Vec<u32>,
}

/// Rows of several sequences, computed in one step. Segments cover the rows in order and without gaps; tokens are below
/// the vocabulary's size; each segment's block table reaches its last position.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// `[rows]`
    pub tokens: Vec<u32>,
    /// Which rows belong to which sequence, and where in it.
    pub segments: Vec<Segment>,
    /// Rows whose logits are wanted, in the order of [`Logits::row`].
    pub wanted: Vec<usize>,
}

impl Batch {
    fn kernel_segments(&self) -> Arc<[kernels::Segment]> {
        let segment =
            |s: &Segment| kernels::Segment { row: s.row, rows: s.rows, position: s.position, blocks: s.blocks.clone() };
        self.segments.iter().map(segment).collect()
    }

    fn check(&self, vocab: usize, blocks: usize) {
        let rows = self.tokens.len();
        let mut next_row = 0;
        for segment in &self.segments {
            assert_eq!(segment.row, next_row, "segments cover the rows in order");
            next_row += segment.rows;
            let reach = segment.blocks.len() * BLOCK_TOKENS;
            assert!(segment.position + segment.rows <= reach, "the block table ends at position {reach}");
            assert!(segment.blocks.iter().all(|&b| (b as usize) < blocks), "the pool has {blocks} blocks");
        }
        assert_eq!(next_row, rows, "segments cover all rows");
        assert!(self.tokens.iter().all(|&t| (t as usize) < vocab), "the vocabulary has {vocab} tokens");
        assert!(self.wanted.iter().all(|&w| w < rows), "the batch has {rows} rows");
    }
}

/// `[wanted, vocab] f32`: unnormalised log-probabilities of the next token.
#[derive(Debug, Default)]
pub struct Logits {
    rows: Vec<f32>,
    vocab: usize,
}

impl Logits {
    /// The logits after the `i`-th wanted row: `[vocab]`.
    ///
    /// # Panics
    /// Where fewer than `i + 1` rows were wanted.
    pub fn row(&self, i: usize) -> &[f32] {
        &self.rows[i * self.vocab..][..self.vocab]
    }
}
