//! The small operations between matrices, each one pass over its rows: RMS normalisation, rotary embedding, and the gate
//! of an MLP. Burn's own operations compute the same in five to ten passes.
//!
//! **Invariant:** a row's bits depend on that row alone. Where nobody else holds the first operand it is overwritten.

use crate::ops::Kernels;
use burn::backend::Dispatch;
use burn::tensor::Tensor;

/// Each row of `x [rows, n] f32` divided by its root mean square, times `weight [n] f32`:
/// `x / sqrt(mean(x²) + eps) · weight` (Zhang & Sennrich 2019, arXiv:1910.07467).
///
/// # Panics
/// Where the shapes do not fit.
pub fn rms_norm(x: Tensor<2>, weight: Tensor<1>, eps: f32) -> Tensor<2> {
    assert_eq!(x.dims()[1], weight.dims()[0], "one weight per column");
    Tensor::from_dispatch(Dispatch::rms_norm(x.into_dispatch(), weight.into_dispatch(), eps))
}

/// Rotary embedding of half-rotated heads: in each head of `x [rows, heads, head_dim] f32`, elements `i` and `i + pairs`
/// turn by the row's `i`-th angle, given by `cos` and `sin [rows, pairs] f32` (Su et al. 2021, arXiv:2104.09864). Elements
/// from `2 · pairs` on stay as they are: a partial rotation.
///
/// # Panics
/// Where the shapes do not fit.
pub fn rotate(x: Tensor<3>, cos: Tensor<2>, sin: Tensor<2>) -> Tensor<3> {
    let [rows, _heads, head_dim] = x.dims();
    let [_rows, pairs] = cos.dims();
    assert!(2 * pairs <= head_dim, "a head of {head_dim} has not {pairs} pairs");
    assert_eq!(cos.dims(), [rows, pairs], "one cosine per row and pair");
    assert_eq!(sin.dims(), cos.dims(), "one sine per row and pair");
    Tensor::from_dispatch(Dispatch::rotate(x.into_dispatch(), cos.into_dispatch(), sin.into_dispatch()))
}

/// `silu(gate) · up`, element by element: `[rows, n] f32` each (Shazeer 2020, arXiv:2002.05202).
///
/// # Panics
/// Where the shapes differ.
pub fn silu_mul(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    assert_eq!(gate.dims(), up.dims(), "gate and up have one shape");
    Tensor::from_dispatch(Dispatch::silu_mul(gate.into_dispatch(), up.into_dispatch()))
}

/// `gelu(gate) · up`, element by element, `[rows, n] f32` each, where `gelu(x) = x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))`
/// (Hendrycks & Gimpel 2016, arXiv:1606.08415).
///
/// # Panics
/// Where the shapes differ.
pub fn gelu_mul(gate: Tensor<2>, up: Tensor<2>) -> Tensor<2> {
    assert_eq!(gate.dims(), up.dims(), "gate and up have one shape");
    Tensor::from_dispatch(Dispatch::gelu_mul(gate.into_dispatch(), up.into_dispatch()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData, Tolerance, activation::silu};

    fn tensor<const D: usize>(shape: [usize; D], seed: f32) -> Tensor<D> {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| ((i as f32 + seed) * 0.731).sin() * 4.0).collect();
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    fn check<const D: usize>(got: &Tensor<D>, want: &Tensor<D>) {
        got.to_data().assert_approx_eq::<f32>(&want.to_data(), Tolerance::absolute(4e-6).set_relative(2e-6));
    }

    #[test]
    fn each_is_what_burns_own_operations_compute() {
        let (x, weight) = (tensor([97, 577], 0.0), tensor([577], 3.0));
        let mean_square = x.clone().square().mean_dim(1);
        let want = x.clone() / (mean_square + 1e-5).sqrt() * weight.clone().unsqueeze();
        check(&rms_norm(x, weight, 1e-5), &want);

        let (gate, up) = (tensor([97, 577], 1.0), tensor([97, 577], 2.0));
        check(&silu_mul(gate.clone(), up.clone()), &(silu(gate) * up));

        let (x, cos, sin) = (tensor([97, 9, 22], 4.0), tensor([97, 11], 5.0), tensor([97, 11], 6.0));
        let (low, high) = (x.clone().narrow(2, 0, 11), x.clone().narrow(2, 11, 11));
        let (c, s) = (cos.clone().unsqueeze_dim(1), sin.clone().unsqueeze_dim(1));
        let want_low = low.clone() * c.clone() - high.clone() * s.clone();
        check(&rotate(x, cos, sin), &Tensor::cat(vec![want_low, high * c + low * s], 2));
    }

    #[test]
    fn shared_and_strided_operands_are_left_alone() {
        let x = tensor([64, 33], 0.0);
        let before = x.to_data();
        let strided = x.clone().swap_dims(0, 1); // [33, 64]
        check(&silu_mul(strided.clone(), strided.clone()), &(silu(strided.clone()) * strided));
        assert_eq!(x.to_data(), before);
    }

    #[test]
    fn no_rows_are_no_work() {
        assert_eq!(silu_mul(tensor([0, 7], 0.0), tensor([0, 7], 0.0)).dims(), [0, 7]);
    }
}
