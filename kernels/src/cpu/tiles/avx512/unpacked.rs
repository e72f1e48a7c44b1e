//! Superblocks unpacked into the scratch once for many rows of `x`.

use super::units::{integers, scales};
use super::{OfX, Part, Q4_K, Q6_K, SLICE, Store, add, multiply, prefetch, read, shape};
use crate::cpu::activations::{GROUPS, Panel};
use crate::cpu::scratch::Line;
use std::arch::x86_64::*;

/// Writes chunks of a tile to `lines`: of each unit its scale, its minimum, its integers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) fn unpack<const F: u8>(chunks: &[u8], lines: &mut [Line]) {
    let shape = const { shape(F) };
    let each = shape.unpacked();
    for (bytes, lines) in chunks.chunks_exact(shape.chunk).zip(lines.chunks_exact_mut(shape.units * each)) {
        // What comes next, while this is unpacked.
        prefetch(bytes.as_ptr().wrapping_add(SLICE * shape.chunk), shape.chunk, false);
        let at = bytes.as_ptr();
        // SAFETY: `bytes` is a chunk, and the processor has the instructions.
        unsafe {
            for (u, lines) in lines.chunks_exact_mut(each).enumerate() {
                let (scale, minimum) = scales::<F>(at, u);
                save(&mut lines[0], _mm512_castps_si512(scale));
                save(&mut lines[1], _mm512_castps_si512(minimum));
            }
            if F == Q4_K {
                unpack_nibbles(at.add(shape.header), lines);
                continue;
            }
            for (u, lines) in lines.chunks_exact_mut(each).enumerate() {
                for (g, line) in lines[2..].iter_mut().enumerate() {
                    save(line, integers::<F>(at.add(shape.header), u, g));
                }
            }
        }
    }
}

/// The integers of Q4_K, two units at a time, which share their bytes.
///
/// # Safety
/// A chunk's vectors are at `body`, and the processor has AVX-512.
#[inline(always)]
unsafe fn unpack_nibbles(body: *const u8, lines: &mut [Line]) {
    let each = const { shape(Q4_K) }.unpacked();
    for (pair, lines) in lines.chunks_exact_mut(2 * each).enumerate() {
        let (even, odd) = lines.split_at_mut(each);
        for g in 0..GROUPS {
            // SAFETY: the caller's promise.
            unsafe {
                let low = _mm512_set1_epi8(15);
                let bytes = read(body.add(64 * (pair * GROUPS + g)));
                save(&mut even[2 + g], _mm512_and_si512(bytes, low));
                save(&mut odd[2 + g], _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), low));
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn save(line: &mut Line, value: __m512i) {
    // SAFETY: 64 bytes, aligned to 64.
    unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), value) }
}

/// [`panel`](super::panel) over units that are unpacked; the same arithmetic. The first units begin the sums, which then wait in `waiting`
/// for the next; the last go to `store`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn unpacked<const F: u8, const T: usize, const R: usize>(
    x: &Panel,
    part: &Part,
    tiles: &[&[Line]; T],
    waiting: &mut [Line],
    store: &Store,
) {
    let shape = const { shape(F) };
    let of_x = OfX::<R>::new(x);
    let Part { units, of } = part;
    assert!(units.end <= of_x.fours.len() * GROUPS / shape.groups);
    assert!(tiles.iter().all(|tile| tile.len() >= units.len() * shape.unpacked()));
    let first_unit = units.start;
    let waiting: &mut [[Line; R]; T] = waiting.as_chunks_mut().0.first_chunk_mut().expect("a line for each sum");
    // By a mask and not by a branch: with one the compiler keeps the sums in memory.
    let goes_on: __mmask16 = if first_unit > 0 { !0 } else { 0 };
    let mut sums = [[_mm512_setzero_ps(); R]; T];
    for t in 0..T {
        for r in 0..R {
            // SAFETY: 64 bytes, aligned to 64.
            sums[t][r] = unsafe { _mm512_maskz_load_ps(goes_on, waiting[t][r].0.as_ptr().cast()) };
        }
    }
    for number in units.clone() {
        let (block, first) = (number * shape.groups / GROUPS, number * shape.groups % GROUPS);
        // SAFETY: the lines of unit `number` are inside each tile, and the processor has the instructions.
        unsafe {
            let at = tiles.map(|tile| tile.as_ptr().add((number - first_unit) * shape.unpacked()).cast::<u8>());
            let mut ints = [[_mm512_setzero_si512(); R]; T];
            if F == Q6_K {
                for r in 0..R {
                    let start = _mm512_set1_epi32(of_x.start[number][r]);
                    for ints in &mut ints {
                        ints[r] = start;
                    }
                }
            }
            for g in 0..shape.groups {
                let mut weights = [_mm512_setzero_si512(); T];
                for t in 0..T {
                    weights[t] = read(at[t].add(64 * (2 + g)));
                }
                multiply(&weights, &of_x.fours[block][first + g], &mut ints);
            }
            for t in 0..T {
                let (scale, minimum) = (_mm512_castsi512_ps(read(at[t])), _mm512_castsi512_ps(read(at[t].add(64))));
                add::<F, R>(&ints[t], scale, minimum, &of_x.d[block], &of_x.sum[block], &mut sums[t]);
            }
        }
    }
    if units.end == *of {
        // SAFETY: the processor has the instructions.
        return unsafe { store.put(x.row, &sums) };
    }
    for t in 0..T {
        for r in 0..R {
            save(&mut waiting[t][r], _mm512_castps_si512(sums[t][r]));
        }
    }
}
