//! Integers and scales out of a chunk's bytes, and their products with activations: the one place where it is decided how.

use super::{OfX, Q4_0, Q4_1, Q4_K, Q5_K, Q6_K, Q8_0, add, multiply, read, shape};
use crate::cpu::activations::GROUPS;
use crate::packing::{SCALES_4K, TILE_ROWS};
use std::arch::x86_64::*;

/// `a | b & c`
const OR_AND: i32 = 0xF8;

/// Adds unit `u` of the chunks at `at`, the `number`-th of the row, to `sums`: the one place where it is decided how.
///
/// # Safety
/// The chunks are there, and the processor has AVX-512 and VNNI.
#[inline(always)]
pub(super) unsafe fn unit<const F: u8, const T: usize, const R: usize>(
    at: &[*const u8; T],
    u: usize,
    number: usize,
    x: &OfX<R>,
    sums: &mut [[__m512; R]; T],
) {
    let shape = const { shape(F) };
    let (block, first) = (number * shape.groups / GROUPS, number * shape.groups % GROUPS);
    let fours = &x.fours[block];
    // SAFETY: the caller's promise, for all of it.
    unsafe {
        let mut ints = [[_mm512_setzero_si512(); R]; T];
        if F == Q8_0 || F == Q4_0 || F == Q6_K {
            for r in 0..R {
                let start = _mm512_set1_epi32(x.start[number][r]);
                for ints in &mut ints {
                    ints[r] = start;
                }
            }
        }
        if F == Q4_0 || F == Q4_1 {
            // A byte has elements of two groups.
            let low = _mm512_set1_epi8(15);
            for g in 0..4 {
                let mut two = [[_mm512_setzero_si512(); T]; 2];
                for t in 0..T {
                    let bytes = read(at[t].add(shape.header + 64 * (4 * u + g)));
                    two[0][t] = _mm512_and_si512(bytes, low);
                    two[1][t] = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), low);
                }
                multiply(&two[0], &fours[g], &mut ints);
                multiply(&two[1], &fours[g + 4], &mut ints);
            }
        } else {
            for g in 0..shape.groups {
                let mut weights = [_mm512_setzero_si512(); T];
                for t in 0..T {
                    weights[t] = integers::<F>(at[t].add(shape.header), u, g);
                }
                multiply(&weights, &fours[first + g], &mut ints);
            }
        }
        for t in 0..T {
            let (scale, minimum) = scales::<F>(at[t], u);
            add::<F, R>(&ints[t], scale, minimum, &x.d[block], &x.sum[block], &mut sums[t]);
        }
    }
}

/// [`unit`] for two that share their bytes.
///
/// # Safety
/// As for [`unit`].
#[inline(always)]
pub(super) unsafe fn pair_of_units<const F: u8, const T: usize, const R: usize>(
    at: &[*const u8; T],
    pair: usize,
    number: usize,
    x: &OfX<R>,
    sums: &mut [[__m512; R]; T],
) {
    let shape = const { shape(F) };
    // SAFETY: the caller's promise, for all of it; the vectors of the chunk as `packing::chunk` has them.
    unsafe {
        let mut ints = [[[_mm512_setzero_si512(); R]; T]; 2];
        let low = _mm512_set1_epi8(15);
        for g in 0..GROUPS {
            let mut two = [[_mm512_setzero_si512(); T]; 2];
            for t in 0..T {
                let body = at[t].add(shape.header);
                let first = if F == Q5_K { GROUPS } else { 0 };
                let bytes = read(body.add(64 * (first + pair * GROUPS + g)));
                two[0][t] = _mm512_and_si512(bytes, low);
                two[1][t] = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), low);
                if F == Q5_K {
                    for (i, two) in two.iter_mut().enumerate() {
                        two[t] = _mm512_or_si512(two[t], _mm512_slli_epi16::<4>(bits(body, g, 2 * pair + i, 1)));
                    }
                }
            }
            multiply(&two[0], &x.fours[number][g], &mut ints[0]);
            multiply(&two[1], &x.fours[number + 1][g], &mut ints[1]);
        }
        for (i, ints) in ints.iter().enumerate() {
            let block = number + i;
            for t in 0..T {
                let (scale, minimum) = scales::<F>(at[t], 2 * pair + i);
                add::<F, R>(&ints[t], scale, minimum, &x.d[block], &x.sum[block], &mut sums[t]);
            }
        }
    }
}

/// [`unit`] for the eight of half a superblock of Q6_K, whose runs of 32 columns share their bytes.
///
/// # Safety
/// As for [`unit`].
#[inline(always)]
pub(super) unsafe fn half_of_units<const F: u8, const T: usize, const R: usize>(
    at: &[*const u8; T],
    half: usize,
    number: usize,
    x: &OfX<R>,
    sums: &mut [[__m512; R]; T],
) {
    let shape = const { shape(F) };
    const RUNS: usize = 4;
    // SAFETY: the caller's promise, for all of it; the vectors of the chunk as `packing::chunk` has them.
    unsafe {
        let mut ints = [[[_mm512_setzero_si512(); R]; T]; 2 * RUNS];
        for (u, ints) in ints.iter_mut().enumerate() {
            for r in 0..R {
                let start = _mm512_set1_epi32(x.start[number + u][r]);
                for ints in ints.iter_mut() {
                    ints[r] = start;
                }
            }
        }
        let (low, upper) = (_mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
        // The units of even numbers have the first groups of a run, the others the last.
        for part in 0..2 {
            let mut sixteens: [[[__m512i; R]; T]; RUNS] = std::array::from_fn(|run| ints[2 * run + part]);
            for g in part * 4..part * 4 + 4 {
                let mut runs = [[_mm512_setzero_si512(); T]; RUNS];
                for t in 0..T {
                    let body = at[t].add(shape.header);
                    let (a, b) = (read(body.add(64 * (half * 16 + g))), read(body.add(64 * (half * 16 + 8 + g))));
                    let top = read(body.add(64 * (32 + half * 8 + g)));
                    let nibbles = [
                        _mm512_and_si512(a, low),
                        _mm512_and_si512(b, low),
                        _mm512_and_si512(_mm512_srli_epi16::<4>(a), low),
                        _mm512_and_si512(_mm512_srli_epi16::<4>(b), low),
                    ];
                    let tops =
                        [_mm512_slli_epi16::<4>(top), _mm512_slli_epi16::<2>(top), top, _mm512_srli_epi16::<2>(top)];
                    for run in 0..RUNS {
                        runs[run][t] = _mm512_ternarylogic_epi32::<OR_AND>(nibbles[run], tops[run], upper);
                    }
                }
                for (run, weights) in runs.iter().enumerate() {
                    multiply(weights, &x.fours[number / 2 + run][g], &mut sixteens[run]);
                }
            }
            for run in 0..RUNS {
                ints[2 * run + part] = sixteens[run];
            }
        }
        for (u, ints) in ints.iter().enumerate() {
            let block = (number + u) / 2;
            for t in 0..T {
                let (scale, minimum) = scales::<F>(at[t], half * 8 + u);
                add::<F, R>(&ints[t], scale, minimum, &x.d[block], &x.sum[block], &mut sums[t]);
            }
        }
    }
}

/// [`unit`] for the two of run `RUN` (32 columns) of half a superblock of Q6_K.
///
/// # Safety
/// As for [`unit`].
#[inline(always)]
pub(super) unsafe fn run_of_units<const F: u8, const T: usize, const R: usize, const RUN: usize>(
    at: &[*const u8; T],
    half: usize,
    number: usize,
    x: &OfX<R>,
    sums: &mut [[__m512; R]; T],
) {
    let shape = const { shape(F) };
    // SAFETY: the caller's promise, for all of it; the vectors of the chunk as `packing::chunk` has them.
    unsafe {
        let (low, upper) = (_mm512_set1_epi8(15), _mm512_set1_epi8(0x30));
        for part in 0..2 {
            let u = 2 * RUN + part;
            let mut ints = [[_mm512_setzero_si512(); R]; T];
            for r in 0..R {
                let start = _mm512_set1_epi32(x.start[number + u][r]);
                ints.iter_mut().for_each(|ints| ints[r] = start);
            }
            for g in part * 4..part * 4 + 4 {
                let mut weights = [_mm512_setzero_si512(); T];
                for t in 0..T {
                    let body = at[t].add(shape.header);
                    let nibbles = read(body.add(64 * (half * 16 + RUN % 2 * 8 + g)));
                    let nibbles = if RUN < 2 { nibbles } else { _mm512_srli_epi16::<4>(nibbles) };
                    let top = read(body.add(64 * (32 + half * 8 + g)));
                    let top = match RUN {
                        0 => _mm512_slli_epi16::<4>(top),
                        1 => _mm512_slli_epi16::<2>(top),
                        2 => top,
                        _ => _mm512_srli_epi16::<2>(top),
                    };
                    weights[t] = _mm512_ternarylogic_epi32::<OR_AND>(_mm512_and_si512(nibbles, low), top, upper);
                }
                multiply(&weights, &x.fours[number / 2 + RUN][g], &mut ints);
            }
            for t in 0..T {
                let (scale, minimum) = scales::<F>(at[t], half * 8 + u);
                let block = number / 2 + RUN;
                add::<F, R>(&ints[t], scale, minimum, &x.d[block], &x.sum[block], &mut sums[t]);
            }
        }
    }
}

/// The integers of group `g` of unit `u`, unsigned. `body`: a chunk's vectors.
///
/// # Safety
/// The chunk is there, and the processor has AVX-512.
#[inline(always)]
pub(super) unsafe fn integers<const F: u8>(body: *const u8, u: usize, g: usize) -> __m512i {
    // SAFETY: the caller's promise; the vectors of the chunk as `packing::chunk` has them.
    unsafe {
        match F {
            Q4_K => bits(body, u / 2 * 8 + g, u % 2 * 4, 15),
            Q5_K => {
                let nibbles = bits(body, 8 + u / 2 * 8 + g, u % 2 * 4, 15);
                _mm512_or_si512(nibbles, _mm512_slli_epi16::<4>(bits(body, g, u, 1)))
            }
            Q6_K => {
                // Of each half of 128 columns: four runs of 32, which are two units each.
                let (half, run, g) = (u / 8, u % 8 / 2, u % 2 * 4 + g);
                let nibbles = bits(body, half * 16 + run % 2 * 8 + g, run / 2 * 4, 15);
                _mm512_or_si512(nibbles, _mm512_slli_epi16::<4>(bits(body, 32 + half * 8 + g, run * 2, 3)))
            }
            _ => read(body.add(64 * (8 * u + g))),
        }
    }
}

/// Some bits of each byte of vector `vector`, lowest first.
///
/// # Safety
/// The vector is there, and the processor has AVX-512.
#[inline(always)]
unsafe fn bits(body: *const u8, vector: usize, from: usize, mask: i8) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe {
        let bytes = _mm512_srl_epi16(read(body.add(64 * vector)), _mm_cvtsi32_si128(from as i32));
        _mm512_and_si512(bytes, _mm512_set1_epi8(mask))
    }
}

/// What unit `u` is multiplied by, and what is added for each of its columns.
///
/// # Safety
/// The chunk at `at` is there, and the processor has AVX-512.
#[inline(always)]
pub(super) unsafe fn scales<const F: u8>(at: *const u8, u: usize) -> (__m512, __m512) {
    // SAFETY: the caller's promise; headers as `packing::chunk` has them.
    unsafe {
        match F {
            Q4_1 => (halves(at, 0), halves(at, 1)),
            Q4_K | Q5_K => {
                let scale = _mm512_cvtepu8_epi32(sixteen(at.add(SCALES_4K), u));
                let minimum = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(sixteen(at.add(SCALES_4K), 8 + u)));
                let below = _mm512_fnmadd_ps(halves(at, 1), minimum, _mm512_setzero_ps());
                (_mm512_mul_ps(halves(at, 0), _mm512_cvtepi32_ps(scale)), below)
            }
            Q6_K => {
                let scale = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(sixteen(at.add(2 * TILE_ROWS), u)));
                (_mm512_mul_ps(halves(at, 0), scale), _mm512_setzero_ps())
            }
            _ => (halves(at, u), _mm512_setzero_ps()),
        }
    }
}

/// The `i`-th f16 of each row, widened.
///
/// # Safety
/// They are there, and the processor has AVX-512.
#[inline(always)]
unsafe fn halves(at: *const u8, i: usize) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.add(i * 2 * TILE_ROWS).cast())) }
}

/// The `i`-th byte of each row.
///
/// # Safety
/// They are there, and the processor has AVX-512.
#[inline(always)]
unsafe fn sixteen(at: *const u8, i: usize) -> __m128i {
    // SAFETY: the caller's promise.
    unsafe { _mm_loadu_si128(at.add(i * TILE_ROWS).cast()) }
}
