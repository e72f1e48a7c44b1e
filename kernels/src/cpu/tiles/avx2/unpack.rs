//! Weights taken apart into the scratch, once for all rows of `x`: each byte is read once.

use super::super::shape::{Q4_0, Q4_1, Q5_K, Q6_K, Q8_0, shape};
use super::units::{passes, scales};
use super::{HALVES, ask, read};
use crate::cpu::activations::GROUPS;
use crate::cpu::scratch::Line;
use std::arch::x86_64::*;

/// Lines before an unpacked unit's integers: its scale, its minimum.
pub(super) const SCALES: usize = 2;

/// Lines of an unpacked unit; of each both halves of the tile.
pub(super) const fn unit_lines(format: u8) -> usize {
    SCALES + shape(format).groups * passes(format)
}

/// Writes chunks of a tile to `lines`.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn unpack<const F: u8>(chunks: &[u8], lines: &mut [Line]) {
    let shape = const { shape(F) };
    let each = const { unit_lines(F) };
    for (chunk, lines) in chunks.chunks_exact(shape.chunk).zip(lines.chunks_exact_mut(shape.units * each)) {
        let (at, lines) = (chunk.as_ptr(), lines.as_mut_ptr());
        for u in 0..shape.units {
            ask::<F>(at, u);
            for half in 0..HALVES {
                // SAFETY: the chunk has unit `u`, whose lines are the `u`-th of as many; the processor has the instructions.
                unsafe {
                    let (scale, minimum) = scales::<F>(at, u, half);
                    save(lines.add(u * each), half, _mm256_castps_si256(scale));
                    save(lines.add(u * each + 1), half, _mm256_castps_si256(minimum));
                }
            }
        }
        // SAFETY: the vectors of a chunk, its units' lines; the processor has the instructions.
        unsafe {
            let body = at.add(shape.header);
            match F {
                Q5_K => five_bits::<F>(body, lines),
                Q6_K => six_bits::<F>(body, lines),
                _ => nibbles::<F>(body, lines),
            }
        }
    }
}

/// Every byte of the vectors at `body` is two integers, or the halves of one, in different lines.
///
/// # Safety
/// The chunk and its lines are there, and the processor has AVX2.
#[inline(always)]
unsafe fn nibbles<const F: u8>(body: *const u8, lines: *mut Line) {
    let (shape, each) = (const { shape(F) }, const { unit_lines(F) });
    // Vectors whose lower nibbles are of one unit, and how far from them the upper ones go.
    let (vectors, units, apart) = match F {
        Q8_0 => (GROUPS, 1, GROUPS),
        Q4_0 | Q4_1 => (GROUPS / 2, 1, GROUPS / 2),
        _ => (GROUPS, 2, each),
    };
    for first in 0..shape.units / units {
        for v in 0..vectors {
            for half in 0..HALVES {
                // SAFETY: the caller's promise; the vectors of the chunk as `packing::chunk` has them.
                unsafe {
                    let bytes = read(body.add(64 * (first * vectors + v) + 32 * half));
                    let to = lines.add(first * units * each + SCALES + v);
                    save(to, half, low(bytes));
                    save(to.add(apart), half, low(_mm256_srli_epi16::<4>(bytes)));
                }
            }
        }
    }
}

/// # Safety
/// As for [`nibbles`].
#[inline(always)]
unsafe fn five_bits<const F: u8>(body: *const u8, lines: *mut Line) {
    let (pairs, each) = (const { shape(F).units / 2 }, const { unit_lines(F) });
    for g in 0..GROUPS {
        for half in 0..HALVES {
            // SAFETY: the caller's promise; the vectors of the chunk as `packing::chunk` has them.
            unsafe {
                let fifths = read(body.add(64 * g + 32 * half));
                for pair in 0..pairs {
                    let bytes = read(body.add(64 * (GROUPS + pair * GROUPS + g) + 32 * half));
                    let to = lines.add(2 * pair * each + SCALES + g);
                    save(to, half, _mm256_or_si256(low(bytes), fifth(fifths, 2 * pair)));
                    let upper = low(_mm256_srli_epi16::<4>(bytes));
                    save(to.add(each), half, _mm256_or_si256(upper, fifth(fifths, 2 * pair + 1)));
                }
            }
        }
    }
}

/// 16 where bit `unit` is set.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn fifth(bytes: __m256i, unit: usize) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe {
        let bit = _mm256_set1_epi8((1_u8 << unit) as i8);
        _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit), _mm256_set1_epi8(16))
    }
}

/// # Safety
/// As for [`nibbles`].
#[inline(always)]
unsafe fn six_bits<const F: u8>(body: *const u8, lines: *mut Line) {
    let (groups, each) = (const { shape(F).groups }, const { unit_lines(F) });
    // Of each half of 128 columns: four runs of 32, which are two units each.
    for (part, g) in (0..2).flat_map(|part| (0..GROUPS).map(move |g| (part, g))) {
        for half in 0..HALVES {
            // SAFETY: the caller's promise.
            unsafe {
                for (run, integers) in runs_of_six_bits(body, part, g, half).into_iter().enumerate() {
                    let unit = part * 8 + 2 * run + g / groups;
                    save(lines.add(unit * each + SCALES + g % groups), half, integers);
                }
            }
        }
    }
}

/// Group `g` of each run of 32 columns of half `part` of the Q6_K chunk whose vectors are at `body`.
///
/// # Safety
/// The chunk is there, and the processor has AVX2.
#[inline(always)]
pub(super) unsafe fn runs_of_six_bits(body: *const u8, part: usize, g: usize, half: usize) -> [__m256i; 4] {
    // SAFETY: the caller's promise; the vectors of the chunk as `packing::chunk` has them.
    unsafe {
        let vectors = body.add(32 * half);
        let a = read(vectors.add(64 * (part * 16 + g)));
        let b = read(vectors.add(64 * (part * 16 + GROUPS + g)));
        let top = read(vectors.add(64 * (32 + part * GROUPS + g)));
        let upper = _mm256_set1_epi8(0x30);
        [
            _mm256_or_si256(low(a), _mm256_and_si256(_mm256_slli_epi16::<4>(top), upper)),
            _mm256_or_si256(low(b), _mm256_and_si256(_mm256_slli_epi16::<2>(top), upper)),
            _mm256_or_si256(low(_mm256_srli_epi16::<4>(a)), _mm256_and_si256(top, upper)),
            _mm256_or_si256(low(_mm256_srli_epi16::<4>(b)), _mm256_and_si256(_mm256_srli_epi16::<2>(top), upper)),
        ]
    }
}

/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn low(bytes: __m256i) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_and_si256(bytes, _mm256_set1_epi8(15)) }
}

/// # Safety
/// The line is there, and the processor has AVX.
#[inline(always)]
pub(super) unsafe fn save(line: *mut Line, half: usize, value: __m256i) {
    // SAFETY: the caller's promise; 32 of its 64 bytes.
    unsafe { _mm256_store_si256(line.cast::<__m256i>().add(half), value) }
}
