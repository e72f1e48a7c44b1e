//! Activations in 8 bits, for weights in blocks.
//!
//! A block of 32 becomes `q: [i8; 32]` and one scale `d = max|x| / 127`, so an element is off by
//! at most `d / 2`. Rows are independent of one another. A block with an element that is no
//! number gets the scale NaN, so that it is not lost.

use super::dispatch::{Level, On, leveled};
use super::shared::Shared;
use crate::format::BLOCK;
use std::ops::Range;

/// Groups of four elements in a block.
pub(super) const GROUPS: usize = BLOCK / 4;

/// Elements of a task: fewer are done before another thread would have looked.
const ELEMENTS_PER_TASK: usize = 4096;

/// What a kernel wants of its activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Most rows of a panel.
    pub width: usize,
    /// How much higher than meant the weights' integers are.
    pub zero: i32,
    /// Columns whose products with that are subtracted together: 32 or 16.
    pub unit: usize,
}

/// `[m, k]` quantised, in panels of `width` rows (the last of what remains), and what the kernels
/// need of each block. Within a panel the rows' numbers stand side by side, so that a kernel walks
/// through it with one pointer.
#[derive(Default)]
pub(crate) struct Activations {
    m: usize,
    k: usize,
    width: usize,
    fours: Vec<[i8; 4]>,
    d: Vec<f32>,
    sum: Vec<f32>,
    start: Vec<i32>,
    /// Columns of a unit.
    unit: usize,
}

/// Rows of [`Activations`] that are worked on together.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    /// First row.
    pub row: usize,
    /// Number of rows, at most the width.
    pub rows: usize,
    /// `[block, group, row]`, four elements each.
    pub fours: &'a [[i8; 4]],
    /// `[block, row]`: scale.
    pub d: &'a [f32],
    /// `[block, row]`: scale times the block's sum, what a weight's minimum is multiplied by.
    pub sum: &'a [f32],
    /// `[unit, row]`: `-zero` times the unit's sum, where an integer dot product with weights
    /// that are stored `zero` too high starts.
    pub start: &'a [i32],
}

impl Activations {
    /// `x [m, k]` as `wanted`.
    #[cfg(test)]
    pub fn new(on: On, x: &[f32], k: usize, wanted: Wanted) -> Self {
        let mut new = Self::default();
        new.fill(on, x, k, wanted);
        new
    }

    /// Becomes `x [m, k]` as `wanted`, in the memory there is.
    pub fn fill(&mut self, on: On, x: &[f32], k: usize, wanted: Wanted) {
        let (m, blocks) = (x.len() / k, x.len() / BLOCK);
        let Wanted { zero, unit, .. } = wanted;
        // As many panels as there have to be, all about the same.
        let width = m.div_ceil(m.div_ceil(wanted.width).max(1)).max(1);
        (self.m, self.k, self.width, self.unit) = (m, k, width, unit);
        let fours = Shared::new(grown(&mut self.fours, x.len() / 4));
        let (d, sum) = (Shared::new(grown(&mut self.d, blocks)), Shared::new(grown(&mut self.sum, blocks)));
        let start = Shared::new(grown(&mut self.start, x.len() / unit));
        let per_row = k / BLOCK;
        let together = (ELEMENTS_PER_TASK / (width * BLOCK)).clamp(1, per_row.max(1));
        let parts = per_row.div_ceil(together);
        on.pool.run(m.div_ceil(width) * parts, &|task| {
            let rows = task / parts * width..m.min((task / parts + 1) * width);
            let first = task % parts * together;
            let blocks = first..per_row.min(first + together);
            let x = &x[rows.start * k..rows.end * k];
            // A panel's blocks one after the other, of each all rows.
            let base = rows.start * per_row;
            let of = base + blocks.start * rows.len()..base + blocks.end * rows.len();
            // SAFETY: each task has its own blocks of its own rows.
            let (fours, d) = unsafe { (fours.part(of.start * GROUPS..of.end * GROUPS), d.part(of.clone())) };
            let units = of.start * BLOCK / unit..of.end * BLOCK / unit;
            // SAFETY: as above.
            let (sum, start) = unsafe { (sum.part(of), start.part(units)) };
            quantize(on.level, x, k, blocks, Blocks { fours, d, sum, start }, zero);
        });
    }

    /// Rows.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn rows(&self) -> usize {
        self.m
    }

    pub(super) fn panels(&self) -> impl Iterator<Item = Panel<'_>> {
        let per_row = self.k / BLOCK;
        (0..self.m).step_by(self.width).map(move |row| {
            let rows = self.width.min(self.m - row);
            let blocks = row * per_row..(row + rows) * per_row;
            Panel {
                row,
                rows,
                fours: &self.fours[blocks.start * GROUPS..blocks.end * GROUPS],
                d: &self.d[blocks.clone()],
                sum: &self.sum[blocks.clone()],
                start: &self.start[row * (self.k / self.unit)..(row + rows) * (self.k / self.unit)],
            }
        })
    }
}

/// The first `len` elements, which are all written: what is there of an earlier call stays until then.
fn grown<T: Copy + Default>(memory: &mut Vec<T>, len: usize) -> &mut [T] {
    if memory.len() < len {
        memory.resize(len, T::default());
    }
    &mut memory[..len]
}

/// Where some blocks of a panel go: as in [`Panel`].
pub(super) struct Blocks<'a> {
    pub fours: &'a mut [[i8; 4]],
    pub d: &'a mut [f32],
    pub sum: &'a mut [f32],
    pub start: &'a mut [i32],
}

fn quantize(level: Level, x: &[f32], k: usize, blocks: Range<usize>, to: Blocks, zero: i32) {
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a level exists only where the processor has it.
        Level::Avx512 => unsafe { super::activations_avx512::quantize(x, k, blocks, to, zero) },
        _ => quantize_rows(level, x, k, blocks, to, zero),
    }
}

leveled! { fn quantize_rows(x: &[f32], k: usize, blocks: Range<usize>, to: Blocks, zero: i32) = quantize_panel }

#[inline(always)]
fn quantize_panel<const L: usize, const FMA: bool>(x: &[f32], k: usize, blocks: Range<usize>, to: Blocks, zero: i32) {
    let Blocks { fours, d, sum, start } = to;
    let rows = x.len() / k;
    let mut q = [0; BLOCK];
    let units = start.len() / d.len();
    for (row, x) in x.chunks_exact(k).enumerate() {
        for (b, x) in x.as_chunks::<BLOCK>().0[blocks.clone()].iter().enumerate() {
            let scale = quantize_block(x, &mut q);
            let at = b * rows + row;
            d[at] = scale;
            sum[at] = scale * q.iter().map(|q| i32::from(*q)).sum::<i32>() as f32;
            for (u, q) in q.chunks_exact(BLOCK / units).enumerate() {
                start[(b * units + u) * rows + row] = -zero * q.iter().map(|q| i32::from(*q)).sum::<i32>();
            }
            for (g, four) in q.as_chunks::<4>().0.iter().enumerate() {
                fours[(b * GROUPS + g) * rows + row] = *four;
            }
        }
    }
}

/// The scale of `q`.
#[inline(always)]
fn quantize_block(x: &[f32; BLOCK], q: &mut [i8; BLOCK]) -> f32 {
    // Compared as integers, because then what is no number is the largest.
    let bits = x.iter().fold(0, |a, x| a.max(x.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(bits);
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    // Added to it, a small number is rounded to an integer that stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    for (q, x) in q.iter_mut().zip(x) {
        *q = (x * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i8;
    }
    largest / 127.0
}

/// `[m, k]` rounded to bfloat16, in panels as [`Activations`]: two columns of a row are one number of 32 bits.
#[derive(Default)]
pub(super) struct Pairs {
    m: usize,
    k: usize,
    width: usize,
    /// Of each panel `[k / 2, row]`.
    pairs: Vec<u32>,
}

impl Pairs {
    /// Becomes `x [m, k]` in the memory there is; `k` is even.
    pub fn fill(&mut self, on: On, x: &[f32], k: usize, width: usize) {
        let m = x.len() / k;
        let width = m.div_ceil(m.div_ceil(width).max(1)).max(1);
        (self.m, self.k, self.width) = (m, k, width);
        let pairs = Shared::new(grown(&mut self.pairs, x.len() / 2));
        let per_row = k / 2;
        let together = (ELEMENTS_PER_TASK / (2 * width)).clamp(1, per_row.max(1));
        let parts = per_row.div_ceil(together);
        on.pool.run(m.div_ceil(width) * parts, &|task| {
            let rows = task / parts * width..m.min((task / parts + 1) * width);
            let first = task % parts * together;
            let columns = first..per_row.min(first + together);
            let base = rows.start * per_row;
            // SAFETY: each task has its own columns of its own rows.
            let pairs = unsafe { pairs.part(base + columns.start * rows.len()..base + columns.end * rows.len()) };
            round(on.level, &x[rows.start * k..rows.end * k], k, columns, pairs);
        });
    }

    /// Rows.
    #[cfg(target_arch = "x86_64")]
    pub fn rows(&self) -> usize {
        self.m
    }

    /// First row, rows, and their pairs.
    pub fn panels(&self) -> impl Iterator<Item = (usize, usize, &[u32])> {
        (0..self.m).step_by(self.width).map(move |row| {
            let rows = self.width.min(self.m - row);
            (row, rows, &self.pairs[row * self.k / 2..(row + rows) * self.k / 2])
        })
    }
}

fn round(level: Level, x: &[f32], k: usize, columns: Range<usize>, pairs: &mut [u32]) {
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a level exists only where the processor has it.
        Level::Avx512 => unsafe { super::activations_avx512::round(x, k, columns, pairs) },
        _ => round_rows(level, x, k, columns, pairs),
    }
}

leveled! { fn round_rows(x: &[f32], k: usize, columns: Range<usize>, pairs: &mut [u32]) = round_panel }

#[inline(always)]
fn round_panel<const L: usize, const FMA: bool>(x: &[f32], k: usize, columns: Range<usize>, pairs: &mut [u32]) {
    let rows = x.len() / k;
    for (row, x) in x.chunks_exact(k).enumerate() {
        for (c, x) in x.as_chunks::<2>().0[columns.clone()].iter().enumerate() {
            pairs[c * rows + row] = rounded_pair(x);
        }
    }
}

/// Two columns of a row.
#[inline(always)]
pub(super) fn rounded_pair([first, second]: &[f32; 2]) -> u32 {
    rounded(*first) | rounded(*second) << 16
}

/// The upper half of a binary32, to nearest, ties to even; what is no number stays none.
#[inline(always)]
fn rounded(x: f32) -> u32 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    if x.is_nan() { bits >> 16 | 0x40 } else { nearest }
}
