//! Weight matrices in the graph. **Invariant:** the bytes stay as the snapshot holds them; nothing here unpacks a whole
//! matrix.

use burn::module::Module;
use burn::tensor::Tensor;
use kernels::Matrix;

/// A matrix `[n, k]` in its stored format: a projection `x · wᵀ`, or a table of rows.
#[derive(Module, Debug)]
pub(crate) struct Linear {
    weight: Matrix,
}

impl Linear {
    pub(crate) fn new(weight: Matrix) -> Self {
        Self { weight }
    }

    /// `x [rows, k] f32 → [rows, n] f32`
    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        kernels::linear(x, &self.weight)
    }

    /// [`Linear::forward`] of two at once.
    pub(super) fn forward_2([a, b]: [&Self; 2], x: Tensor<2>) -> [Tensor<2>; 2] {
        kernels::linear_2(x, [&a.weight, &b.weight])
    }

    /// [`Linear::forward`] of three at once.
    pub(super) fn forward_3([a, b, c]: [&Self; 3], x: Tensor<2>) -> [Tensor<2>; 3] {
        kernels::linear_3(x, [&a.weight, &b.weight, &c.weight])
    }

    /// The rows `ids`, dequantised: `[ids, k] f32`.
    pub(super) fn rows(&self, ids: &[u32]) -> Tensor<2> {
        kernels::gather(&self.weight, ids)
    }
}
