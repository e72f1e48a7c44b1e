//! Q6_K with one row of `x`: taken out of its bytes as it is multiplied, four runs of columns at a time, which share them. The same sums
//! as of [`super::unpacked`], in the same order.

use super::super::operands::OfX;
use super::super::shape::{Q6_K, shape};
use super::units::{add_pairs, scaled, scales, span};
use super::unpack::runs_of_six_bits;
use super::{HALVES, Store, ask};
use crate::cpu::activations::{GROUPS, Panel};
use std::arch::x86_64::*;

const RUNS: usize = 4;
/// Units of half a chunk: two of each run.
const UNITS: usize = 2 * RUNS;

/// A tile with a panel of one row of `x`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn one_row(x: &Panel, tile: &[u8], store: &Store) {
    let shape = const { shape(Q6_K) };
    let of_x = OfX::<1>::new(x);
    let chunks = of_x.fours.len() * GROUPS / (shape.units * shape.groups);
    // Every read below is inside a chunk, and there are so many.
    assert!(tile.len() >= chunks * shape.chunk);
    let mut sums = [[_mm256_setzero_ps(); 1]; HALVES];
    for (c, part) in (0..chunks).flat_map(|c| [(c, 0), (c, 1)]) {
        for (half, [sum]) in sums.iter_mut().enumerate() {
            // SAFETY: chunk `c` is inside the tile; the processor has the instructions.
            unsafe {
                let at = tile.as_ptr().add(c * shape.chunk);
                for u in 0..UNITS / HALVES {
                    ask::<Q6_K>(at, part * UNITS + half * UNITS / HALVES + u);
                }
                let number = c * shape.units + part * UNITS;
                let ints = integers(at.add(shape.header), part, half, number, &of_x);
                for (u, ints) in ints.into_iter().enumerate() {
                    let (scale, _) = scales::<Q6_K>(at, part * UNITS + u, half);
                    *sum = scaled(ints, scale, of_x.d[(number + u) / 2][0], *sum);
                }
            }
        }
    }
    store.put(x.row, &sums);
}

/// The integer sums of the units of half `part` of the chunk whose vectors are at `body`, the `number`-th of the row and those after it.
///
/// # Safety
/// The chunk is there, and the processor has AVX2.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // a group is that of several runs
unsafe fn integers(body: *const u8, part: usize, half: usize, number: usize, x: &OfX<1>) -> [__m256i; UNITS] {
    let (groups, span) = (const { shape(Q6_K) }.groups, const { span(Q6_K) });
    let fours: &[_; RUNS] = x.fours[number / 2..].first_chunk().expect("half a chunk is four blocks");
    // SAFETY: the caller's promise.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut ints = [_mm256_setzero_si256(); UNITS];
        for (ints, start) in ints.iter_mut().zip(&x.start[number..]) {
            *ints = _mm256_set1_epi32(start[0]);
        }
        for first in (0..GROUPS).step_by(span) {
            let mut sums = [_mm256_setzero_si256(); RUNS];
            for g in first..first + span {
                let runs = runs_of_six_bits(body, part, g, half);
                for (run, sum) in sums.iter_mut().enumerate() {
                    let [a, b, c, d] = fours[run][g][0];
                    let four = _mm256_set1_epi32(i32::from_ne_bytes([a as u8, b as u8, c as u8, d as u8]));
                    *sum = add_pairs(*sum, runs[run], four);
                }
            }
            for (run, sum) in sums.into_iter().enumerate() {
                let ints = &mut ints[2 * run + first / groups];
                *ints = _mm256_add_epi32(*ints, _mm256_madd_epi16(sum, ones));
            }
        }
        ints
    }
}
