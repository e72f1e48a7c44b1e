//! The decoder on a CPU: the operations of [`super::decoder`], in the same order, on slices instead of tensors.
//!
//! **Invariants:** the bits of the graph of tensors, which is what this is compared with; nothing is allocated once the largest
//! step has been seen. Rows whose logits nobody wants end with their keys and values of the last layer. **Absent:** experts, and
//! gates with a bias or another function: such models have the graph of tensors alone.

use super::layer::{FeedForward, Layer};
use super::linear::Linear;
use super::norm::RmsNorm;
use super::{Batch, Decoder};
use crate::Activation;
use kernels::direct::{self, Values, Weights};
use kernels::{Gate, KvLayer, Scores, Segment};

/// See the module.
#[derive(Debug)]
pub(crate) struct Direct {
    embedding: Weights,
    embedding_scale: Option<f32>,
    layers: Vec<DirectLayer>,
    norm: Norm,
    head: Projection,
    logit_softcap: Option<f32>,
    hidden: usize,
}

#[derive(Debug)]
pub(super) struct Projection {
    pub(super) weight: Weights,
    pub(super) bias: Option<Values>,
}

#[derive(Debug)]
pub(super) struct Norm {
    pub(super) weight: Values,
    pub(super) eps: f32,
}

#[derive(Debug)]
struct DirectLayer {
    input_norm: Norm,
    q: Projection,
    k: Projection,
    v: Projection,
    q_norm: Option<Norm>,
    k_norm: Option<Norm>,
    o: Projection,
    attention_out_norm: Option<Norm>,
    mlp_norm: Norm,
    gate: Weights,
    up: Weights,
    down: Projection,
    mlp_out_norm: Option<Norm>,
    by: Gate,
    scores: Scores,
}

/// What the steps compute in; it grows to the largest.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The first `used` are this step's; the others keep their block tables' memory.
    segments: Vec<Segment>,
    used: usize,
    turns: Turns,
    local_turns: Turns,
    /// `[rows, hidden]`
    x: Vec<f32>,
    /// What matrices read.
    normed: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    mixed: Vec<f32>,
    gated: Vec<f32>,
    ups: Vec<f32>,
    /// Of the last matrix of a part, before it is added.
    product: Vec<f32>,
    /// Wanted rows of `x` and `mixed`.
    kept_x: Vec<f32>,
    kept_mixed: Vec<f32>,
}

/// Cosines and sines of a step's rows: `[rows, pairs]` each.
#[derive(Debug, Default)]
pub(super) struct Turns {
    pub(super) cos: Vec<f32>,
    pub(super) sin: Vec<f32>,
}

impl Direct {
    /// `None` where the decoder is on another device, or does what is absent here.
    pub(crate) fn of(decoder: &Decoder) -> Option<Self> {
        let head = decoder.head.direct()?;
        Some(Self {
            embedding: decoder.embedding.direct()?.weight,
            embedding_scale: decoder.embedding_scale,
            layers: decoder.layers.iter().map(DirectLayer::of).collect::<Option<_>>()?,
            norm: decoder.norm.direct()?,
            hidden: head.weight.k(),
            head,
            logit_softcap: decoder.logit_softcap,
        })
    }

    /// One step: writes keys and values, and the wanted logits `[wanted, vocab]`.
    pub(super) fn forward(
        &self,
        decoder: &Decoder,
        batch: &Batch,
        kv: &mut [KvLayer],
        memory: &mut Memory,
        logits: &mut Vec<f32>,
    ) {
        let (rows, hidden) = (batch.tokens.len(), self.hidden);
        memory.begin(decoder, batch);
        let x = sized(&mut memory.x, rows * hidden);
        direct::gather(&self.embedding, &batch.tokens, x);
        if let Some(scale) = self.embedding_scale {
            x.iter_mut().for_each(|x| *x *= scale);
        }
        let wanted = batch.wanted.len();
        for (i, (layer, kv)) in self.layers.iter().zip(kv).enumerate() {
            layer.attend(rows, memory, kv);
            if i + 1 < self.layers.len() {
                layer.finish(rows, memory);
            } else {
                memory.keep(&batch.wanted, hidden, layer.o.weight.k());
                layer.finish(wanted, memory);
            }
        }
        let x = sized(&mut memory.x, wanted * hidden);
        direct::rms_norm_in_place(x, &self.norm.weight, self.norm.eps);
        logits.resize(wanted * self.head.weight.n(), 0.0);
        self.head.forward(x, logits);
        memory.end();
        if let Some(cap) = self.logit_softcap {
            logits.iter_mut().for_each(|logit| *logit = (*logit / cap).tanh() * cap);
        }
    }
}

impl DirectLayer {
    fn of(layer: &Layer) -> Option<Self> {
        let FeedForward::Dense(mlp) = &layer.feed_forward else { return None };
        let by = match mlp.activation {
            Activation::Silu => Gate::Silu,
            Activation::GeluTanh => Gate::GeluTanh,
            Activation::Gelu => return None,
        };
        let without_bias = |linear: &Linear| linear.direct().filter(|p| p.bias.is_none()).map(|p| p.weight);
        let attention = &layer.attention;
        Some(Self {
            input_norm: layer.input_norm.direct()?,
            q: attention.q.direct()?,
            k: attention.k.direct()?,
            v: attention.v.direct()?,
            q_norm: optional(attention.q_norm.as_ref())?,
            k_norm: optional(attention.k_norm.as_ref())?,
            o: attention.o.direct()?,
            attention_out_norm: optional(layer.attention_out_norm.as_ref())?,
            mlp_norm: layer.mlp_norm.direct()?,
            gate: without_bias(&mlp.gate)?,
            up: without_bias(&mlp.up)?,
            down: mlp.down.direct()?,
            mlp_out_norm: optional(layer.mlp_out_norm.as_ref())?,
            by,
            scores: attention.scores,
        })
    }

    /// Writes keys and values, and what attention gives to `mixed`.
    fn attend(&self, rows: usize, memory: &mut Memory, kv: &mut KvLayer) {
        let Memory { segments, used, turns, local_turns, x, normed, q, k, v, mixed, .. } = memory;
        let normed = sized(normed, rows * self.q.weight.k());
        direct::rms_norm(&x[..normed.len()], &self.input_norm.weight, self.input_norm.eps, normed);
        let [q, k, v] = [(q, &self.q), (k, &self.k), (v, &self.v)].map(|(to, p)| sized(to, rows * p.weight.n()));
        direct::linear(normed, [(&self.q.weight, &mut *q), (&self.k.weight, &mut *k), (&self.v.weight, &mut *v)]);
        for (to, projection) in [(&mut *q, &self.q), (&mut *k, &self.k), (&mut *v, &self.v)] {
            projection.add_bias(to);
        }
        for (to, norm) in [(&mut *q, &self.q_norm), (&mut *k, &self.k_norm)] {
            if let Some(norm) = norm {
                direct::rms_norm_in_place(to, &norm.weight, norm.eps);
            }
        }
        let turns = if self.scores.window.is_some() { local_turns } else { turns };
        let mixed = sized(mixed, q.len());
        direct::attention([q, k], v, [&turns.cos, &turns.sin], kv, &segments[..*used], self.scores, mixed);
    }

    /// From what attention gave to the end of the layer.
    fn finish(&self, rows: usize, memory: &mut Memory) {
        if rows == 0 {
            return;
        }
        let Memory { x, normed, mixed, gated, ups, product, .. } = memory;
        let x = sized(x, rows * self.o.weight.n());
        let product = sized(product, x.len());
        self.o.add(&mixed[..rows * self.o.weight.k()], self.attention_out_norm.as_ref(), x, product);
        let normed = sized(normed, x.len());
        direct::rms_norm(x, &self.mlp_norm.weight, self.mlp_norm.eps, normed);
        let (gated, ups) = (sized(gated, rows * self.gate.n()), sized(ups, rows * self.gate.n()));
        direct::gated(normed, [&self.gate, &self.up], self.by, gated, ups);
        self.down.add(gated, self.mlp_out_norm.as_ref(), x, product);
    }
}

impl Projection {
    fn forward(&self, x: &[f32], out: &mut [f32]) {
        direct::linear(x, [(&self.weight, &mut *out)]);
        self.add_bias(out);
    }

    fn add_bias(&self, out: &mut [f32]) {
        if let Some(bias) = &self.bias {
            direct::add_bias(out, bias);
        }
    }

    /// The last projection of a part, normalised where there is a norm, added to the stream.
    fn add(&self, x: &[f32], norm: Option<&Norm>, stream: &mut [f32], product: &mut [f32]) {
        if self.bias.is_none() && norm.is_none() {
            return direct::linear_add(x, &self.weight, stream, product);
        }
        self.forward(x, product);
        if let Some(norm) = norm {
            direct::rms_norm_in_place(product, &norm.weight, norm.eps);
        }
        direct::add(stream, product, self.weight.n());
    }
}

impl Memory {
    /// Segments and turns of a step.
    fn begin(&mut self, decoder: &Decoder, batch: &Batch) {
        self.used = batch.segments.len();
        for (i, from) in batch.segments.iter().enumerate() {
            if i == self.segments.len() {
                self.segments.push(Segment { row: 0, rows: 0, position: 0, blocks: Vec::new() });
            }
            let to = &mut self.segments[i];
            (to.row, to.rows, to.position) = (from.row, from.rows, from.position);
            to.blocks.clear();
            to.blocks.extend_from_slice(&from.blocks);
        }
        decoder.frequencies.write_turns(&batch.segments, &mut self.turns);
        let local = decoder.local_frequencies.as_ref().unwrap_or(&decoder.frequencies);
        if decoder.layers.iter().any(|layer| layer.attention.scores.window.is_some()) {
            local.write_turns(&batch.segments, &mut self.local_turns);
        }
    }

    /// Only these rows go on: of the stream and of what attention gave. [`Memory::end`] follows.
    fn keep(&mut self, wanted: &[usize], hidden: usize, width: usize) {
        let rows = |from: &[f32], to: &mut Vec<f32>, width: usize| {
            let to = sized(to, wanted.len() * width);
            for (to, row) in to.chunks_exact_mut(width).zip(wanted) {
                to.copy_from_slice(&from[row * width..][..width]);
            }
        };
        rows(&self.x, &mut self.kept_x, hidden);
        rows(&self.mixed, &mut self.kept_mixed, width);
        self.end();
    }

    /// What was kept is elsewhere; so that no memory has to grow again it comes back to its place.
    fn end(&mut self) {
        std::mem::swap(&mut self.x, &mut self.kept_x);
        std::mem::swap(&mut self.mixed, &mut self.kept_mixed);
    }
}

fn optional(norm: Option<&RmsNorm>) -> Option<Option<Norm>> {
    norm.map_or(Some(None), |norm| norm.direct().map(Some))
}

/// The first `count` numbers, whatever they are.
fn sized(memory: &mut Vec<f32>, count: usize) -> &mut [f32] {
    if memory.len() < count {
        memory.resize(count, 0.0);
    }
    &mut memory[..count]
}
