//! What stands together in every layer, as one operation: a normalisation and the matrices that read it, a matrix and the stream
//! it is added to. The same bits as one after the other, in a fraction of the calls.

use crate::ops::{Kernels, check_columns, shape_of};
use crate::{Gate, Matrix};
use burn::backend::Dispatch;
use burn::tensor::Tensor;

/// A root-mean-square normalisation: weight `[n] f32`, and what is added to the mean square.
#[derive(Clone, Debug)]
pub struct Norm {
    /// `[n] f32`
    pub weight: Tensor<1>,
    /// See [`crate::rms_norm`].
    pub eps: f32,
}

impl Norm {
    fn check(&self, x: &Tensor<2>) {
        assert_eq!(x.dims()[1], self.weight.dims()[0], "one weight per column");
    }
}

/// [`crate::linear_3`] of [`crate::rms_norm`] of `x`, which is left as it is.
///
/// # Panics
/// As those.
pub fn norm_linear_3(x: Tensor<2>, norm: Norm, [a, b, c]: [&Matrix; 3]) -> [Tensor<2>; 3] {
    norm.check(&x);
    [a, b, c].into_iter().for_each(|w| check_columns(&x, w));
    let bytes = |w: &Matrix| w.bytes().clone().into_dispatch();
    let (x, weight) = (x.into_dispatch(), norm.weight.into_dispatch());
    let (a_shape, b_shape, c_shape) = (shape_of(a), shape_of(b), shape_of(c));
    let (a, b, c) =
        Dispatch::norm_linear_3(x, weight, norm.eps, bytes(a), a_shape, bytes(b), b_shape, bytes(c), c_shape);
    [a, b, c].map(Tensor::from_dispatch)
}

/// `by(gate(n)) · up(n)` of `n`, [`crate::rms_norm`] of `x`, which is left as it is: `[m, n] f32`.
///
/// # Panics
/// As those, and where `gate` and `up` have different shapes.
pub fn norm_gate(x: Tensor<2>, norm: Norm, [gate, up]: [&Matrix; 2], by: Gate) -> Tensor<2> {
    norm.check(&x);
    [gate, up].into_iter().for_each(|w| check_columns(&x, w));
    assert_eq!(gate.n(), up.n(), "gate and up have one shape");
    let bytes = |w: &Matrix| w.bytes().clone().into_dispatch();
    let (x, weight) = (x.into_dispatch(), norm.weight.into_dispatch());
    let out = Dispatch::norm_gate(x, weight, norm.eps, bytes(gate), shape_of(gate), bytes(up), shape_of(up), by);
    Tensor::from_dispatch(out)
}

/// [`crate::linear`] of `x`, added to `residual [m, n] f32`.
///
/// # Panics
/// As that, and where `residual` has another shape.
pub fn linear_add(x: Tensor<2>, w: &Matrix, residual: Tensor<2>) -> Tensor<2> {
    check_columns(&x, w);
    assert_eq!(residual.dims(), [x.dims()[0], w.n()], "shape of the residual");
    let bytes = w.bytes().clone().into_dispatch();
    Tensor::from_dispatch(Dispatch::linear_add(x.into_dispatch(), bytes, shape_of(w), residual.into_dispatch()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Format, gelu_mul, linear, linear_2, linear_3, rms_norm, silu_mul};
    use burn::tensor::{Device, TensorData};

    fn tensor<const D: usize>(shape: [usize; D], seed: f32) -> Tensor<D> {
        let count: usize = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|i| ((i as f32 + seed) * 0.731).sin()).collect();
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    fn matrix(format: Format, n: usize, k: usize) -> Matrix {
        let row = tensor([k], n as f32).into_data();
        let mut bytes = vec![0; format.row_bytes(k).unwrap()];
        format.quantize_row(row.as_slice::<f32>().unwrap(), &mut bytes);
        Matrix::from_bytes(bytes.repeat(n).into(), format, n, k, &Device::flex()).unwrap()
    }

    #[test]
    fn each_has_the_bits_of_its_parts() {
        for (m, k) in [(1, 64), (7, 96), (40, 64)] {
            let (x, norm) = (tensor([m, k], 1.0), Norm { weight: tensor([k], 2.0), eps: 1e-5 });
            let normed = rms_norm(x.clone(), norm.weight.clone(), norm.eps);
            let [a, b, c] = [(Format::Q4_1, 33), (Format::Q8_0, 16), (Format::F32, 5)].map(|(f, n)| matrix(f, n, k));
            let fused = norm_linear_3(x.clone(), norm.clone(), [&a, &b, &c]);
            for (fused, apart) in fused.into_iter().zip(linear_3(normed.clone(), [&a, &b, &c])) {
                assert_eq!(fused.into_data(), apart.into_data());
            }
            let (gate, up) = (matrix(Format::Q4_0, 48, k), matrix(Format::Q4_1, 48, k));
            let [g, u] = linear_2(normed, [&gate, &up]);
            for (by, apart) in [(Gate::Silu, silu_mul(g.clone(), u.clone())), (Gate::GeluTanh, gelu_mul(g, u))] {
                let fused = norm_gate(x.clone(), norm.clone(), [&gate, &up], by);
                assert_eq!(fused.into_data(), apart.into_data());
            }
            let residual = tensor([m, 33], 9.0);
            let apart = linear(x.clone(), &a) + residual.clone();
            assert_eq!(linear_add(x.clone(), &a, residual).into_data(), apart.into_data());
            assert_eq!(x.into_data(), tensor([m, k], 1.0).into_data(), "left as it is");
        }
    }
}
