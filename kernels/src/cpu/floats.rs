//! Weights in f32, f16 and bf16, and those in blocks that have no kernel of their own; arithmetic is in f32 throughout.
//!
//! A lane is a residue of the element's index, so weights are read as they are stored; each
//! output has one vector of sums, filled in the order of the elements and folded at the end in
//! one fixed order. f16 and bf16 are widened a few rows at a time into a scratch in the cache.

use super::dispatch::{Level, leveled};
use super::scratch::Scratch;
use super::shared::Shared;
use super::vector::{Vector, vectored};
use super::weight::Weight;
use crate::Format;
use half::f16;
use std::ops::Range;

/// Weight rows that are worked on together.
const ROWS: usize = 4;
/// Lanes of the widest vector.
const LANES_MAX: usize = 16;

/// Writes the outputs of the weight rows `rows` for every row of `x [m, k]`.
pub(super) fn tiles(level: Level, x: &[f32], w: &Weight, rows: Range<usize>, scratch: &mut Scratch, out: &Shared<f32>) {
    let k = w.k();
    let floats = scratch.floats(ROWS * k);
    for first in rows.clone().step_by(ROWS) {
        let columns = first..rows.end.min(first + ROWS);
        let mut widened = floats.chunks_exact_mut(k);
        let tile: [&[f32]; ROWS] = std::array::from_fn(|i| {
            let row = w.row((first + i).min(rows.end - 1));
            let into = widened.next().expect("scratch has a row for each");
            widen(level, w.format(), row, into)
        });
        multiply(level, x, &tile, columns, w.n(), out);
    }
}

/// A row as f32: itself where it is that and aligned, else widened into `into`.
fn widen<'a>(level: Level, format: Format, row: &'a [u8], into: &'a mut [f32]) -> &'a [f32] {
    if format == Format::F32
        && cfg!(target_endian = "little")
        && let Ok(row) = bytemuck::try_cast_slice(row)
    {
        return row;
    }
    match format {
        Format::F16 => match bytemuck::try_cast_slice(row) {
            Ok(row) if cfg!(target_endian = "little") => widen_f16(level, row, into),
            _ => format.dequantize_row(row, into),
        },
        Format::BF16 => widen_bf16(level, row, into),
        _ => format.dequantize_row(row, into),
    }
    into
}

leveled! { fn widen_bf16(row: &[u8], into: &mut [f32]) = widen_bf16_lanes }

#[inline(always)]
fn widen_bf16_lanes<const L: usize, const FMA: bool>(row: &[u8], into: &mut [f32]) {
    for (out, bytes) in into.iter_mut().zip(row.as_chunks::<2>().0) {
        *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    }
}

vectored! { fn widen_f16(row: &[f16], into: &mut [f32]) = widen_f16_with }

#[inline(always)]
fn widen_f16_with<V: Vector, const N: usize, const R: usize>(row: &[f16], into: &mut [f32]) {
    let whole = row.len() / V::LANES * V::LANES;
    for at in (0..whole).step_by(V::LANES) {
        V::load_halves(&row[at..]).store(&mut into[at..]);
    }
    for (into, x) in into.iter_mut().zip(row).skip(whole) {
        *into = x.to_f32();
    }
}

vectored! {
    fn multiply(x: &[f32], w: &[&[f32]; ROWS], columns: Range<usize>, n: usize, out: &Shared<f32>) = multiply_with
}

/// `x [m, k]` against four rows of weights, `R` rows of `x` at a time.
#[inline(always)]
fn multiply_with<V: Vector, const N: usize, const R: usize>(
    x: &[f32],
    w: &[&[f32]; ROWS],
    columns: Range<usize>,
    n: usize,
    out: &Shared<f32>,
) {
    let k = w[0].len();
    let m = x.len() / k;
    let whole = m / R * R;
    for row in (0..whole).step_by(R) {
        let mut xs: [&[f32]; R] = [&[]; R];
        for (i, one) in xs.iter_mut().enumerate() {
            *one = &x[(row + i) * k..][..k];
        }
        let sums = dots::<V, R>(&xs, w, k);
        for (i, sums) in sums.iter().enumerate() {
            put(sums, row + i, &columns, n, out);
        }
    }
    for row in whole..m {
        let sums = dots::<V, 1>(&[&x[row * k..][..k]], w, k);
        put(&sums[0], row, &columns, n, out);
    }
}

#[inline(always)]
fn put(sums: &[f32; ROWS], row: usize, columns: &Range<usize>, n: usize, out: &Shared<f32>) {
    let start = row * n + columns.start;
    // SAFETY: these columns are this tile's alone.
    let out = unsafe { out.part(start..start + columns.len()) };
    out.copy_from_slice(&sums[..columns.len()]);
}

/// The dot products of each row of `x` with each of `w`.
#[inline(always)]
fn dots<V: Vector, const R: usize>(x: &[&[f32]; R], w: &[&[f32]; ROWS], k: usize) -> [[f32; ROWS]; R] {
    let mut sums = [[V::splat(0.0); ROWS]; R];
    let whole = k / V::LANES * V::LANES;
    for at in (0..whole).step_by(V::LANES) {
        let mut weights = [V::splat(0.0); ROWS];
        for j in 0..ROWS {
            weights[j] = V::load(&w[j][at..]);
        }
        add_products(&mut sums, x, at, &weights);
    }
    if whole < k {
        // What is left of a row, filled up with zeros.
        let mut weights = [V::splat(0.0); ROWS];
        let mut rest = [[0.0; LANES_MAX]; R];
        for j in 0..ROWS {
            let mut filled = [0.0; LANES_MAX];
            filled[..k - whole].copy_from_slice(&w[j][whole..k]);
            weights[j] = V::load(&filled);
        }
        let mut filled: [&[f32]; R] = [&[]; R];
        for (i, (rest, filled)) in rest.iter_mut().zip(&mut filled).enumerate() {
            rest[..k - whole].copy_from_slice(&x[i][whole..k]);
            *filled = rest;
        }
        add_products(&mut sums, &filled, 0, &weights);
    }
    let mut folded = [[0.0; ROWS]; R];
    for i in 0..R {
        for j in 0..ROWS {
            folded[i][j] = sums[i][j].fold();
        }
    }
    folded
}

/// Adds to `sums` one vector of each row of `x`, times one of each weight.
#[inline(always)]
fn add_products<V: Vector, const R: usize>(sums: &mut [[V; ROWS]; R], x: &[&[f32]; R], at: usize, weights: &[V; ROWS]) {
    for i in 0..R {
        let x = V::load(&x[i][at..]);
        for j in 0..ROWS {
            sums[i][j] = sums[i][j].add_product(x, weights[j]);
        }
    }
}
