//! The gated feed-forward (Shazeer 2020, arXiv:2002.05202).

use super::linear::Linear;
use super::norm::RmsNorm;
use crate::Activation;
use burn::module::Module;
use burn::tensor::{Tensor, activation};

/// `down(act(gate(x)) · up(x))`.
#[derive(Module, Debug)]
pub(crate) struct Mlp {
    /// `[intermediate, hidden]`
    pub(crate) gate: Linear,
    /// `[intermediate, hidden]`
    pub(crate) up: Linear,
    /// `[hidden, intermediate]`
    pub(crate) down: Linear,
    #[module(skip)]
    pub(crate) activation: Activation,
}

impl Mlp {
    /// What the last projection reads of the normalised `x [rows, hidden] f32`: `[rows, intermediate] f32`.
    pub(super) fn gated(&self, norm: &RmsNorm, x: &Tensor<2>) -> Tensor<2> {
        let by = match self.activation {
            Activation::Silu => Some(kernels::Gate::Silu),
            Activation::GeluTanh => Some(kernels::Gate::GeluTanh),
            Activation::Gelu => None,
        };
        let at_once = by.and_then(|by| Linear::gated([&self.gate, &self.up], norm, x, by));
        at_once.unwrap_or_else(|| self.apart(norm.forward(x.clone())))
    }

    /// `x [rows, hidden] f32 → [rows, hidden] f32`
    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.down.forward(self.apart(x))
    }

    fn apart(&self, x: Tensor<2>) -> Tensor<2> {
        // [rows, intermediate]
        let [gate, up] = Linear::forward_2([&self.gate, &self.up], x);
        match self.activation {
            Activation::Silu => kernels::silu_mul(gate, up),
            Activation::Gelu => activation::gelu(gate) * up,
            Activation::GeluTanh => kernels::gelu_mul(gate, up),
        }
    }
}
