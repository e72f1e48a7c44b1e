//! `x · wᵀ` and rows of `w`, from the stored bytes.
//!
//! A plane makes one column of a few rows: each unit takes four elements of the weight's row at a time, multiplies them with
//! each of the rows of `x`, and the units' sums are added up. **Invariant:** the order in which a row's products are added
//! depends on the device and `k` alone. **Absent:** matrix units, and any conversion of activations: products are float32.

use super::tensor::{
    count, cube_dim, element, elementwise, first_task, planes, planes_at_work, sum_of_plane, unwritten, uploaded, whole,
};
use super::weight::quad_of;
use crate::{Format, MatrixShape, Packing};
use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Rows of `x` that one reading of the weight serves, where there are so many.
const ROWS: usize = 4;

#[cube(launch)]
fn linear_kernel(
    x: &[f32],
    w: &[u32],
    residual: &[f32],
    out: &mut [f32],
    m: u32,
    n: u32,
    k: u32,
    #[comptime] format: Format,
    #[comptime] rows: usize,
    #[comptime] whole: bool,
    #[comptime] added: bool,
) {
    let (m, n, k) = (m as usize, n as usize, k as usize);
    let (first, unit, units) = (CUBE_POS_Y as usize * rows, UNIT_POS_PLANE as usize, PLANE_DIM as usize);
    let quads = k.div_ceil(4);
    let mut column = first_task();
    while column < n {
        let mut sums = Array::<f32>::new(rows);
        #[unroll]
        for r in 0..rows {
            sums[r] = 0.0;
        }
        for step in 0..quads.div_ceil(units) {
            let quad = step * units + unit;
            if quad < quads {
                let weights = quad_of(w, column, quad, k, format);
                #[unroll]
                for r in 0..rows {
                    // Rows that are not there are the last once more.
                    let row = min(first + r, m - 1) * k;
                    #[unroll]
                    for i in 0..4usize {
                        let at = if comptime!(whole) { quad * 4 + i } else { min(quad * 4 + i, k - 1) };
                        sums[r] = fma(weights.extract(i), x[row + at], sums[r]);
                    }
                }
            }
        }
        #[unroll]
        for r in 0..rows {
            let sum = sum_of_plane(sums[r]);
            if unit == 0 && first + r < m {
                let at = (first + r) * n + column;
                out[at] = if comptime!(added) { sum + residual[at] } else { sum };
            }
        }
        column += planes_at_work();
    }
}

/// `x · wᵀ`, and the residual: `[m, n] f32`.
pub(super) fn linear(x: CubeTensor, w: &CubeTensor, shape: MatrixShape, residual: Option<CubeTensor>) -> CubeTensor {
    check(w, shape);
    let x = whole(x);
    let MatrixShape { format, n, k, .. } = shape;
    let m = x.meta.shape()[0];
    let out = unwritten(&x, &[m, n], DType::F32);
    if m == 0 {
        return out;
    }
    let rows = if m < ROWS { 1 } else { ROWS };
    let added = residual.is_some();
    // Without a residual there is something in its place that is not read.
    let residual = residual.map_or_else(|| x.clone(), whole);
    linear_kernel::launch(
        &out.client,
        planes(&x, n, m.div_ceil(rows)),
        cube_dim(),
        x.into_buffer_arg(),
        w.clone().into_buffer_arg(),
        residual.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        count(m),
        count(n),
        count(k),
        format,
        rows,
        k.is_multiple_of(4),
        added,
    );
    out
}

#[cube(launch)]
fn gather_kernel(w: &[u32], ids: &[u32], out: &mut [f32], quads: u32, k: u32, #[comptime] format: Format) {
    let (at, k) = (element(), k as usize);
    let each = k.div_ceil(4);
    if at < quads as usize {
        let (row, quad) = (at / each, at % each);
        let values = quad_of(w, ids[row] as usize, quad, k, format);
        #[unroll]
        for i in 0..4usize {
            if quad * 4 + i < k {
                out[row * k + quad * 4 + i] = values.extract(i);
            }
        }
    }
}

/// Rows `ids` of `w`: `[ids.len(), k] f32`.
pub(super) fn gather(w: &CubeTensor, shape: MatrixShape, ids: &[u32]) -> CubeTensor {
    check(w, shape);
    let out = unwritten(w, &[ids.len(), shape.k], DType::F32);
    let quads = ids.len() * shape.k.div_ceil(4);
    gather_kernel::launch(
        &out.client,
        elementwise(quads),
        cube_dim(),
        w.clone().into_buffer_arg(),
        uploaded(w, ids).into_buffer_arg(),
        out.clone().into_buffer_arg(),
        count(quads),
        count(shape.k),
        shape.format,
    );
    out
}

fn check(w: &CubeTensor, shape: MatrixShape) {
    assert_eq!(shape.packing, Packing::Rows, "a matrix on such a device is in rows");
    assert_eq!(w.dtype, DType::U32, "a matrix on such a device is in words");
}
