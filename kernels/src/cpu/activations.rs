//! Activations in 8 bits, for weights in blocks.
//!
//! A block of 32 becomes `q: [i8; 32]` and one scale `d = max|x| / 127`, so an element is off by
//! at most `d / 2`. Rows are independent of one another. A block with an element that is no
//! number gets the scale NaN, so that it is not lost.

use super::dispatch::{On, leveled};
use super::shared::Shared;
use crate::format::BLOCK;

/// Groups of four elements in a block.
pub(super) const GROUPS: usize = BLOCK / 4;

/// `[m, k]` quantised, in panels of `width` rows (the last of what remains), and what the kernels
/// need of each block. Within a panel the rows' numbers stand side by side, so that a kernel walks
/// through it with one pointer.
pub(crate) struct Activations {
    m: usize,
    k: usize,
    width: usize,
    fours: Vec<[i8; 4]>,
    d: Vec<f32>,
    sum: Vec<f32>,
    start: Vec<i32>,
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
    /// `[block, row]`: `-zero` times the block's sum, where an integer dot product with weights
    /// that are stored `zero` too high starts.
    pub start: &'a [i32],
}

impl Activations {
    /// `x [m, k]` in panels of `width` rows, for weights whose integers are stored `zero` too high.
    pub fn new(on: On, x: &[f32], k: usize, width: usize, zero: i32) -> Self {
        let (m, blocks) = (x.len() / k, x.len() / BLOCK);
        let mut fours = vec![[0; 4]; x.len() / 4];
        let (mut d, mut sum) = (vec![0.0; blocks], vec![0.0; blocks]);
        let mut start = vec![0; blocks];
        {
            let (fours, d) = (Shared::new(&mut fours), Shared::new(&mut d));
            let (sum, start) = (Shared::new(&mut sum), Shared::new(&mut start));
            on.pool.run(m.div_ceil(width), &|panel| {
                let rows = panel * width..m.min((panel + 1) * width);
                let elements = rows.start * k..rows.end * k;
                let blocks = elements.start / BLOCK..elements.end / BLOCK;
                let part = elements.start / 4..elements.end / 4;
                // SAFETY: each task has its own rows, and so its own elements and blocks.
                let (fours, d) = unsafe { (fours.part(part), d.part(blocks.clone())) };
                // SAFETY: as above.
                let (sum, start) = unsafe { (sum.part(blocks.clone()), start.part(blocks)) };
                quantize(on.level, &x[elements], k, fours, d, sum, start, zero);
            });
        }
        Self { m, k, width, fours, d, sum, start }
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
                start: &self.start[blocks],
            }
        })
    }
}

leveled! {
    fn quantize(
        x: &[f32],
        k: usize,
        fours: &mut [[i8; 4]],
        d: &mut [f32],
        sum: &mut [f32],
        start: &mut [i32],
        zero: i32,
    ) = quantize_panel
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn quantize_panel<const L: usize, const FMA: bool>(
    x: &[f32],
    k: usize,
    fours: &mut [[i8; 4]],
    d: &mut [f32],
    sum: &mut [f32],
    start: &mut [i32],
    zero: i32,
) {
    let rows = x.len() / k;
    let mut q = [0; BLOCK];
    for (row, x) in x.chunks_exact(k).enumerate() {
        for (b, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
            let (scale, total) = quantize_block(x, &mut q);
            let at = b * rows + row;
            d[at] = scale;
            sum[at] = scale * total as f32;
            start[at] = -zero * total;
            for (g, four) in q.as_chunks::<4>().0.iter().enumerate() {
                fours[(b * GROUPS + g) * rows + row] = *four;
            }
        }
    }
}

/// Scale, and sum of `q`.
#[inline(always)]
fn quantize_block(x: &[f32; BLOCK], q: &mut [i8; BLOCK]) -> (f32, i32) {
    // Compared as integers, because then what is no number is the largest.
    let bits = x.iter().fold(0, |a, x| a.max(x.to_bits() & 0x7fff_ffff));
    let largest = f32::from_bits(bits);
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    // Added to it, a small number is rounded to an integer that stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    let mut total = 0;
    for (q, x) in q.iter_mut().zip(x) {
        *q = (x * inverse + ROUND).to_bits().wrapping_sub(ROUND.to_bits()) as i8;
        total += i32::from(*q);
    }
    (largest / 127.0, total)
}
