//! The operations between matrices: a plane normalises a row, and a unit turns a pair or gates an element.

use super::tensor::{
    count, cube_dim, element, elementwise, first_task, planes, planes_at_work, sum_of_plane, unwritten, whole,
};
use crate::Gate;
use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

#[cube(launch)]
fn rms_norm_kernel(x: &[f32], weight: &[f32], out: &mut [f32], rows: u32, n: u32, eps: f32) {
    let (n, unit, units) = (n as usize, UNIT_POS_PLANE as usize, PLANE_DIM as usize);
    let mut row = first_task();
    while row < rows as usize {
        let mut squares = 0f32;
        for step in 0..n.div_ceil(units) {
            let i = step * units + unit;
            if i < n {
                let x = x[row * n + i];
                squares = fma(x, x, squares);
            }
        }
        let factor = 1.0 / (sum_of_plane(squares) / f32::cast_from(n as u32) + eps).sqrt();
        for step in 0..n.div_ceil(units) {
            let i = step * units + unit;
            if i < n {
                out[row * n + i] = x[row * n + i] * factor * weight[i];
            }
        }
        row += planes_at_work();
    }
}

/// See [`crate::rms_norm`].
pub(super) fn rms_norm(x: CubeTensor, weight: CubeTensor, eps: f32) -> CubeTensor {
    let (x, weight) = (whole(x), whole(weight));
    let (rows, n) = (x.meta.shape()[0], x.meta.shape()[1]);
    let out = unwritten(&x, &[rows, n], DType::F32);
    if rows * n > 0 {
        rms_norm_kernel::launch(
            &out.client,
            planes(&x, rows, 1),
            cube_dim(),
            x.into_buffer_arg(),
            weight.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            count(rows),
            count(n),
            eps,
        );
    }
    out
}

#[cube(launch)]
fn rotate_kernel(
    x: &[f32],
    cos: &[f32],
    sin: &[f32],
    out: &mut [f32],
    elements: u32,
    heads: u32,
    dim: u32,
    pairs: u32,
) {
    let (at, dim, pairs) = (element(), dim as usize, pairs as usize);
    if at >= elements as usize {
        terminate!();
    }
    let (i, row) = (at % dim, at / dim / heads as usize);
    let mut value = x[at];
    if i < pairs {
        let angle = row * pairs + i;
        value = value * cos[angle] - x[at + pairs] * sin[angle];
    } else if i < 2 * pairs {
        let angle = row * pairs + i - pairs;
        value = value * cos[angle] + x[at - pairs] * sin[angle];
    }
    out[at] = value;
}

/// See [`crate::rotate`].
pub(super) fn rotate(x: CubeTensor, cos: CubeTensor, sin: CubeTensor) -> CubeTensor {
    let (x, cos, sin) = (whole(x), whole(cos), whole(sin));
    let shape: Vec<usize> = x.meta.shape().to_vec();
    let out = unwritten(&x, &shape, DType::F32);
    let elements = shape.iter().product();
    let pairs = cos.meta.shape()[1];
    if elements > 0 && pairs > 0 {
        rotate_kernel::launch(
            &out.client,
            elementwise(elements),
            cube_dim(),
            x.into_buffer_arg(),
            cos.into_buffer_arg(),
            sin.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            count(elements),
            count(shape[1]),
            count(shape[2]),
            count(pairs),
        );
        return out;
    }
    x
}

#[cube(launch)]
fn gate_kernel(gate: &[f32], up: &[f32], out: &mut [f32], elements: u32, #[comptime] by: Gate) {
    let at = element();
    if at < elements as usize {
        let x = gate[at];
        // Both are x · sigmoid(y): tanh is 2 · sigmoid(2 y) − 1, without its overflow.
        let y = if comptime!(by == Gate::Silu) { x } else { 1.595_769 * (x + 0.044_715 * x * x * x) };
        out[at] = x / (1.0 + (-y).exp()) * up[at];
    }
}

/// See [`crate::silu_mul`] and [`crate::gelu_mul`].
pub(super) fn gated(gate: CubeTensor, up: CubeTensor, by: Gate) -> CubeTensor {
    let (gate, up) = (whole(gate), whole(up));
    let shape: Vec<usize> = up.meta.shape().to_vec();
    let out = unwritten(&up, &shape, DType::F32);
    let elements = shape.iter().product();
    if elements > 0 {
        gate_kernel::launch(
            &out.client,
            elementwise(elements),
            cube_dim(),
            gate.into_buffer_arg(),
            up.into_buffer_arg(),
            out.clone().into_buffer_arg(),
            count(elements),
            by,
        );
    }
    out
}
