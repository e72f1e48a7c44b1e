//! One decoder layer: attention and MLP, each after a normalisation and added to the residual stream.

use super::linear::Linear;
use super::norm::RmsNorm;
use super::rope::Turns;
use burn::module::Module;
use burn::tensor::Tensor;
use kernels::{KvLayer, Segment};

#[derive(Module, Debug)]
pub(crate) struct Layer {
    pub(crate) input_norm: RmsNorm,
    pub(crate) attention: Attention,
    pub(crate) mlp_norm: RmsNorm,
    pub(crate) mlp: Mlp,
}

impl Layer {
    /// `x [rows, hidden] f32 → [rows, hidden] f32`; writes the rows' keys and values into `kv`.
    pub(super) fn forward(&self, x: Tensor<2>, step: &Step, kv: &mut KvLayer) -> Tensor<2> {
        let x = self.attention.forward(self.input_norm.forward(x.clone()), step, kv) + x;
        self.mlp.forward(self.mlp_norm.forward(x.clone())) + x
    }
}

/// What all layers of one step share.
pub(super) struct Step<'a> {
    pub(super) segments: &'a [Segment],
    pub(super) turns: Turns,
}

/// Causal grouped-query attention (Ainslie et al. 2023, arXiv:2305.13245) over the paged KV.
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
    #[module(skip)]
    pub(crate) heads: usize,
    #[module(skip)]
    pub(crate) kv_heads: usize,
    #[module(skip)]
    pub(crate) head_dim: usize,
}

impl Attention {
    fn forward(&self, x: Tensor<2>, step: &Step, kv: &mut KvLayer) -> Tensor<2> {
        let [rows, _hidden] = x.dims();
        let (heads, kv_heads, head_dim) = (self.heads, self.kv_heads, self.head_dim);
        let [q, k, v] = Linear::forward_3([&self.q, &self.k, &self.v], x);
        let q = step.turns.apply(q.reshape([rows, heads, head_dim]));
        let k = step.turns.apply(k.reshape([rows, kv_heads, head_dim]));
        let v = v.reshape([rows, kv_heads, head_dim]);
        let scale = 1.0 / (head_dim as f32).sqrt();
        // [rows, heads, head_dim]
        let mixed = kernels::attention(q, k, v, kv, step.segments, scale);
        self.o.forward(mixed.reshape([rows, heads * head_dim]))
    }
}

/// `down(silu(gate(x)) · up(x))`: SwiGLU.
#[derive(Module, Debug)]
pub(crate) struct Mlp {
    /// `[intermediate, hidden]`
    pub(crate) gate: Linear,
    /// `[intermediate, hidden]`
    pub(crate) up: Linear,
    /// `[hidden, intermediate]`
    pub(crate) down: Linear,
}

impl Mlp {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        // [rows, intermediate]
        let [gate, up] = Linear::forward_2([&self.gate, &self.up], x);
        let gated = kernels::silu_mul(gate, up);
        self.down.forward(gated)
    }
}
