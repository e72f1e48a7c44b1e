//! What stands together in every layer: done to some columns by who has just computed them, while they are in the cache.

use super::dispatch::On;
use super::elementwise::{add_rows, gelu_mul_rows, silu_mul_rows};
use super::linear::{linear_2_then, linear_then};
use super::shared::Shared;
use super::weight::Weight;
use crate::Gate;

/// `gated` becomes `by(x · gateᵀ) · (x · upᵀ)`, and `ups` the second factor: `[m, n]` each.
pub(crate) fn gated(on: On, x: &[f32], [gate, up]: [&Weight; 2], by: Gate, (gated, ups): (&mut [f32], &mut [f32])) {
    let n = gate.n();
    linear_2_then(on, x, [(gate, gated), (up, ups)], &|[gated, ups], columns| {
        for row in 0..x.len() / gate.k() {
            let part = row * n + columns.start..row * n + columns.end;
            // SAFETY: these columns are this call's alone.
            let (gated, ups) = unsafe { (gated.part(part.clone()), ups.part(part)) };
            match by {
                Gate::Silu => silu_mul_rows(on.level, gated, ups),
                Gate::GeluTanh => gelu_mul_rows(on.level, gated, ups),
            }
        }
    });
}

/// `stream [m, n]` becomes `x · wᵀ + stream`; `out` is memory for the product.
pub(crate) fn linear_add(on: On, x: &[f32], w: &Weight, stream: &mut [f32], out: &mut [f32]) {
    let n = w.n();
    assert_eq!(stream.len(), out.len(), "shape of the stream");
    let stream = Shared::new(stream);
    linear_then(on, x, (w, out), &|[out], columns| {
        for row in 0..x.len() / w.k() {
            let part = row * n + columns.start..row * n + columns.end;
            // SAFETY: these columns are this call's alone.
            let (out, stream) = unsafe { (out.part(part.clone()), stream.part(part)) };
            add_rows(on.level, stream, out);
        }
    });
}
