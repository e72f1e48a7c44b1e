//! Causal grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245) over the paged KV.

use super::layer::Step;
use super::linear::Linear;
use super::norm::RmsNorm;
use burn::module::Module;
use burn::tensor::Tensor;
use kernels::{KvLayer, Scores};

#[derive(Module, Debug)]
pub(crate) struct Attention {
    /// `[heads · head_dim, hidden]`
    pub(crate) q: Linear,
    /// `[kv_heads · head_dim, hidden]`
    pub(crate) k: Linear,
    /// `[kv_heads · head_dim, hidden]`
    pub(crate) v: Linear,
    /// `[hidden, heads · head_dim]`
    pub(crate) o: Linear,
    /// `[head_dim]`, of every query before its rotation.
    pub(crate) q_norm: Option<RmsNorm>,
    /// `[head_dim]`, of every key before its rotation.
    pub(crate) k_norm: Option<RmsNorm>,
    #[module(skip)]
    pub(crate) heads: usize,
    #[module(skip)]
    pub(crate) kv_heads: usize,
    #[module(skip)]
    pub(crate) head_dim: usize,
    /// A window in it makes this a local layer.
    #[module(skip)]
    pub(crate) scores: Scores,
}

impl Attention {
    /// What the output projection reads of the normalised `x [rows, hidden] f32`: `[rows, heads · head_dim] f32`.
    pub(super) fn mix(&self, norm: &RmsNorm, x: Tensor<2>, step: &Step, kv: &mut KvLayer) -> Tensor<2> {
        let [rows, _hidden] = x.dims();
        let (heads, kv_heads, head_dim) = (self.heads, self.kv_heads, self.head_dim);
        let turns = if self.scores.window.is_some() { &step.local_turns } else { &step.turns };
        let [q, k, v] = Linear::normed_3([&self.q, &self.k, &self.v], norm, x);
        let q = head_norm(self.q_norm.as_ref(), q, [rows, heads, head_dim]);
        let k = head_norm(self.k_norm.as_ref(), k, [rows, kv_heads, head_dim]);
        let v = v.reshape([rows, kv_heads, head_dim]);
        // [rows, heads, head_dim]
        let mixed = kernels::attention(q, k, v, turns.of_kernels(), kv, &step.segments, self.scores);
        mixed.reshape([rows, heads * head_dim])
    }
}

/// `x [rows, heads · head_dim] → [rows, heads, head_dim]`, each head normalised by itself where there is a norm.
fn head_norm(norm: Option<&RmsNorm>, x: Tensor<2>, [rows, heads, head_dim]: [usize; 3]) -> Tensor<3> {
    match norm {
        None => x.reshape([rows, heads, head_dim]),
        Some(norm) => norm.forward(x.reshape([rows * heads, head_dim])).reshape([rows, heads, head_dim]),
    }
}
