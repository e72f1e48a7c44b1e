//! Values times their weights, added up position by position: what is common to few queries and to one.

use crate::cpu::kv::Element;
use crate::cpu::vector::Vector;
use std::ops::Range;

/// So many vectors of each of four rows' sums stay in the registers where these have sixteen lanes.
const BROAD: usize = 4;

/// Adds `weights[position] * values[position]` for each position, in order, to `sums [R, dim]`.
#[inline(always)]
pub(super) fn weigh_values<V: Vector, const N: usize, const R: usize, T: Element>(
    weights: &[&[f32]; R],
    values: &[T],
    dim: usize,
    positions: Range<usize>,
    sums: &mut [f32],
) {
    if positions.is_empty() {
        return;
    }
    let mut at = 0;
    while V::LANES == 16 && R <= 4 && at + BROAD * V::LANES <= dim {
        weigh_columns::<V, BROAD, R, T>(weights, values, dim, positions.clone(), at, sums);
        at += BROAD * V::LANES;
    }
    while at + N * V::LANES <= dim {
        weigh_columns::<V, N, R, T>(weights, values, dim, positions.clone(), at, sums);
        at += N * V::LANES;
    }
    while at + V::LANES <= dim {
        weigh_columns::<V, 1, R, T>(weights, values, dim, positions.clone(), at, sums);
        at += V::LANES;
    }
    for i in 0..R {
        for at in at..dim {
            let sum = &mut sums[i * dim + at];
            for position in positions.clone() {
                let value = values[position * dim + at].widen();
                *sum = V::add_product_of_one(*sum, weights[i][position], value);
            }
        }
    }
}

/// [`weigh_values`] for `N` vectors of elements from `at` on.
#[inline(always)]
fn weigh_columns<V: Vector, const N: usize, const R: usize, T: Element>(
    weights: &[&[f32]; R],
    values: &[T],
    dim: usize,
    positions: Range<usize>,
    at: usize,
    sums: &mut [f32],
) {
    let mut acc = [[V::splat(0.0); N]; R];
    for i in 0..R {
        for n in 0..N {
            acc[i][n] = V::load(&sums[i * dim + at + n * V::LANES..]);
        }
    }
    for position in positions {
        let values = &values[position * dim + at..][..N * V::LANES];
        let mut value = [V::splat(0.0); N];
        for n in 0..N {
            value[n] = T::load(&values[n * V::LANES..]);
        }
        for i in 0..R {
            let weight = V::splat(weights[i][position]);
            for n in 0..N {
                acc[i][n] = acc[i][n].add_product(weight, value[n]);
            }
        }
    }
    for i in 0..R {
        for n in 0..N {
            acc[i][n].store(&mut sums[i * dim + at + n * V::LANES..]);
        }
    }
}
