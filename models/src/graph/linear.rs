//! Weight matrices in the graph. **Invariant:** the bytes stay as the snapshot holds them; nothing here unpacks a whole
//! matrix.

use super::direct::Projection;
use super::norm::RmsNorm;
use burn::module::{Module, Param, ParamId};
use burn::tensor::Tensor;
use kernels::Matrix;
use kernels::direct::{Values, Weights};

/// A matrix `[n, k]` in its stored format: a projection `x · wᵀ + b`, or a table of rows.
#[derive(Module, Debug)]
pub(crate) struct Linear {
    weight: Matrix,
    /// `[n] f32`
    bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    pub(crate) fn new(weight: Matrix, bias: Option<Tensor<1>>) -> Self {
        Self { weight, bias: bias.map(|bias| Param::initialized(ParamId::new(), bias)) }
    }

    /// `x [rows, k] f32 → [rows, n] f32`
    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.biased(kernels::linear(x, &self.weight))
    }

    /// [`Linear::forward`], added to `residual [rows, n]`.
    pub(super) fn forward_add(&self, x: Tensor<2>, residual: Tensor<2>) -> Tensor<2> {
        match &self.bias {
            None => kernels::linear_add(x, &self.weight, residual),
            Some(_) => self.forward(x) + residual,
        }
    }

    /// [`Linear::forward`] of two at once.
    pub(super) fn forward_2([a, b]: [&Self; 2], x: Tensor<2>) -> [Tensor<2>; 2] {
        let [x, y] = kernels::linear_2(x, [&a.weight, &b.weight]);
        [a.biased(x), b.biased(y)]
    }

    /// Of the normalised `x`, the gated product of two at once; `None` where they have biases.
    pub(super) fn gated([gate, up]: [&Self; 2], norm: &RmsNorm, x: &Tensor<2>, by: kernels::Gate) -> Option<Tensor<2>> {
        let plain = gate.bias.is_none() && up.bias.is_none();
        plain.then(|| kernels::norm_gate(x.clone(), norm.of_kernels(), [&gate.weight, &up.weight], by))
    }

    /// [`Linear::forward`] of three at once.
    pub(super) fn forward_3([a, b, c]: [&Self; 3], x: Tensor<2>) -> [Tensor<2>; 3] {
        let [x, y, z] = kernels::linear_3(x, [&a.weight, &b.weight, &c.weight]);
        [a.biased(x), b.biased(y), c.biased(z)]
    }

    /// The same of the normalised `x`.
    pub(super) fn normed_3([a, b, c]: [&Self; 3], norm: &RmsNorm, x: Tensor<2>) -> [Tensor<2>; 3] {
        let [x, y, z] = kernels::norm_linear_3(x, norm.of_kernels(), [&a.weight, &b.weight, &c.weight]);
        [a.biased(x), b.biased(y), c.biased(z)]
    }

    /// The rows `ids`, dequantised: `[ids, k] f32`.
    pub(super) fn rows(&self, ids: &[u32]) -> Tensor<2> {
        kernels::gather(&self.weight, ids)
    }

    /// The same for [`super::direct`]; `None` on another device.
    pub(super) fn direct(&self) -> Option<Projection> {
        let bias = match &self.bias {
            Some(bias) => Some(Values::of(&bias.val())?),
            None => None,
        };
        Some(Projection { weight: Weights::of(&self.weight)?, bias })
    }

    fn biased(&self, x: Tensor<2>) -> Tensor<2> {
        match &self.bias {
            Some(bias) => x + bias.val().unsqueeze(),
            None => x,
        }
    }
}
