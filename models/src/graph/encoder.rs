//! The encoder (BERT: Devlin et al. 2018, arXiv:1810.04805): token ids in, one vector for each sequence out.
//!
//! **Invariant:** what a sequence gives does not depend on the sequences it is computed with. **Absent:** KV, as every token
//! sees every other at once; tokenizing.

use super::linear::Linear;
use crate::config::{EncoderConfig, ModelConfig, Pooling};
use burn::module::{Module, Param, ParamId};
use burn::tensor::{Tensor, activation};

/// A restored encoder.
#[derive(Debug)]
pub struct Encoder {
    pub(crate) config: ModelConfig,
    pub(crate) shape: EncoderConfig,
    pub(crate) graph: EncoderGraph,
}

#[derive(Module, Debug)]
pub(crate) struct EncoderGraph {
    /// `[vocab, hidden]`
    pub(crate) words: Linear,
    /// `[positions, hidden]`
    pub(crate) positions: Linear,
    /// `[token types, hidden]`
    pub(crate) types: Linear,
    pub(crate) norm: LayerNorm,
    pub(crate) layers: Vec<EncoderLayer>,
}

#[derive(Module, Debug)]
pub(crate) struct EncoderLayer {
    /// `[hidden, hidden]` each
    pub(crate) q: Linear,
    pub(crate) k: Linear,
    pub(crate) v: Linear,
    pub(crate) o: Linear,
    pub(crate) attention_norm: LayerNorm,
    /// `[intermediate, hidden]`
    pub(crate) up: Linear,
    /// `[hidden, intermediate]`
    pub(crate) down: Linear,
    pub(crate) mlp_norm: LayerNorm,
}

/// `(x - mean) / sqrt(variance + eps) · weight + bias` over the last axis (Ba et al. 2016, arXiv:1607.06450).
#[derive(Module, Debug)]
pub(crate) struct LayerNorm {
    /// `[hidden] f32`
    weight: Param<Tensor<1>>,
    /// `[hidden] f32`
    bias: Param<Tensor<1>>,
    #[module(skip)]
    eps: f32,
}

impl LayerNorm {
    pub(crate) fn new(weight: Tensor<1>, bias: Tensor<1>, eps: f32) -> Self {
        let param = |tensor| Param::initialized(ParamId::new(), tensor);
        Self { weight: param(weight), bias: param(bias), eps }
    }

    /// `x [rows, hidden] f32 → [rows, hidden] f32`
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let x = x.clone() - x.mean_dim(1);
        let variance = x.clone().square().mean_dim(1);
        x / (variance + self.eps).sqrt() * self.weight.val().unsqueeze() + self.bias.val().unsqueeze()
    }
}

impl Encoder {
    /// The encoder's shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// One vector `[hidden] f32` for each sequence; each has 1 to `config().context_length` ids below the vocabulary's size.
    pub fn embed(&self, sequences: &[&[u32]]) -> Vec<Vec<f32>> {
        if sequences.is_empty() {
            return Vec::new();
        }
        let x = self.graph.forward(sequences, self.config.heads, self.shape.position_offset); // [rows, hidden]
        let mut row = 0;
        let mut pooled = |sequence: &&[u32]| {
            let rows = x.clone().narrow(0, row, sequence.len());
            row += sequence.len();
            let vector = match self.shape.pooling {
                Pooling::Mean => rows.mean_dim(0),
                Pooling::First => rows.narrow(0, 0, 1),
            };
            let values = vector.into_data().try_to_vec::<f32>().expect("embeddings are f32");
            if self.shape.normalise { unit(values) } else { values }
        };
        sequences.iter().map(&mut pooled).collect()
    }
}

impl EncoderGraph {
    fn forward(&self, sequences: &[&[u32]], heads: usize, offset: usize) -> Tensor<2> {
        let ids = sequences.concat();
        let positions: Vec<u32> =
            sequences.iter().flat_map(|s| (offset..offset + s.len()).map(|position| position as u32)).collect();
        let x = self.words.rows(&ids) + self.positions.rows(&positions) + self.types.rows(&vec![0; ids.len()]);
        let mut x = self.norm.forward(x);
        let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.len()).collect();
        for layer in &self.layers {
            x = layer.forward(x, &lengths, heads);
        }
        x
    }
}

impl EncoderLayer {
    /// `x [rows, hidden] f32 → [rows, hidden] f32`; rows of a sequence see each other.
    fn forward(&self, x: Tensor<2>, lengths: &[usize], heads: usize) -> Tensor<2> {
        let [q, k, v] = Linear::forward_3([&self.q, &self.k, &self.v], x.clone());
        let mut row = 0;
        let mut mixed = Vec::with_capacity(lengths.len());
        for &length in lengths {
            let part = |x: &Tensor<2>| split(x.clone().narrow(0, row, length), heads);
            mixed.push(attend(part(&q), part(&k), part(&v)));
            row += length;
        }
        let x = self.attention_norm.forward(self.o.forward(Tensor::cat(mixed, 0)) + x);
        let y = self.down.forward(activation::gelu(self.up.forward(x.clone())));
        self.mlp_norm.forward(y + x)
    }
}

/// `[rows, hidden] → [heads, rows, head_dim]`
fn split(x: Tensor<2>, heads: usize) -> Tensor<3> {
    let [rows, hidden] = x.dims();
    x.reshape([rows, heads, hidden / heads]).swap_dims(0, 1)
}

/// Attention of all rows to all: `[heads, rows, head_dim]` each → `[rows, hidden]`.
fn attend(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>) -> Tensor<2> {
    let [heads, rows, head_dim] = q.dims();
    let scores = q.matmul(k.swap_dims(1, 2)) / (head_dim as f32).sqrt();
    let mixed = activation::softmax(scores, 2).matmul(v);
    mixed.swap_dims(0, 1).reshape([rows, heads * head_dim])
}

/// Of length 1, but for a vector of zeros.
fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let length = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt().max(1e-12);
    vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    vector
}
