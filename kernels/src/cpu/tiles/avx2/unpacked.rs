//! Unpacked weights with a panel of rows of `x`.

use super::super::operands::{OfX, Part};
use super::super::shape::shape;
use super::units::{Unpacked, add, multiply};
use super::unpack::{SCALES, save, unit_lines};
use super::{HALVES, Store};
use crate::cpu::activations::{GROUPS, Panel};
use crate::cpu::scratch::Line;
use std::arch::x86_64::*;

/// Some units of a tile with a panel of `R` rows of `x`. The first units begin the sums, which then wait in `waiting` for the next; the
/// last go to `store`.
#[allow(clippy::needless_range_loop)] // several arrays share an index
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn unpacked<const F: u8, const R: usize>(
    x: &Panel,
    part: &Part,
    lines: &[Line],
    waiting: &mut [Line],
    store: &Store,
) {
    let shape = const { shape(F) };
    let of_x = OfX::<R>::new(x);
    let Part { units, of } = part;
    assert!(units.end <= of_x.fours.len() * GROUPS / shape.groups);
    assert!(lines.len() >= units.len() * const { unit_lines(F) });
    let waiting: &mut [Line; R] = waiting.first_chunk_mut().expect("a line for each row");
    let mut sums = [[_mm256_setzero_ps(); R]; HALVES];
    if units.start > 0 {
        for h in 0..HALVES {
            for r in 0..R {
                // SAFETY: 64 bytes, of which this is a half.
                sums[h][r] = unsafe { _mm256_loadu_ps(waiting[r].0.as_ptr().add(32 * h).cast()) };
            }
        }
    }
    for (i, number) in units.clone().enumerate() {
        // SAFETY: the lines of unit `number` are there, and the processor has the instructions.
        unsafe {
            let at = lines.as_ptr().add(i * const { unit_lines(F) });
            let half = |line: usize, half: usize| _mm256_loadu_ps(at.add(line).cast::<f32>().add(8 * half));
            let ints = multiply::<F, R, _>(&Unpacked(at.add(SCALES)), number, &of_x);
            add::<F, R>(&ints, [(half(0, 0), half(1, 0)), (half(0, 1), half(1, 1))], number, &of_x, &mut sums);
        }
    }
    if units.end == *of {
        return store.put(x.row, &sums);
    }
    for h in 0..HALVES {
        for r in 0..R {
            // SAFETY: the processor has the instructions.
            unsafe { save(&raw mut waiting[r], h, _mm256_castps_si256(sums[h][r])) };
        }
    }
}
