//! Integers and scales out of a chunk's bytes, and their products with activations: the one place where it is decided how.

use super::super::operands::OfX;
use super::super::shape::{Q4_0, Q4_1, Q4_K, Q5_K, Q6_K, Q8_0, shape};
use super::{HALVES, LANES, read};
use crate::cpu::activations::GROUPS;
use crate::cpu::scratch::Line;
use crate::packing::{SCALES_4K, TILE_ROWS};
use std::arch::asm;
use std::arch::x86_64::*;

/// So many groups of a row's products, two in each lane, are added up in 16 bits: integers up to 15, 31 and 63 times 127.
pub(super) const fn span(format: u8) -> usize {
    match format {
        Q6_K => 2,
        Q5_K => 4,
        _ => GROUPS,
    }
}

/// How often the columns of a unit are gone through: integers of 8 bits are multiplied nibble by nibble, the lower ones first.
pub(super) const fn passes(format: u8) -> usize {
    if format == Q8_0 { 2 } else { 1 }
}

/// A unit's integers, unsigned.
pub(super) trait Weights {
    /// Four columns of the eight rows of half `half`, group `g` of the unit; groups of a second pass come after those of the first.
    ///
    /// # Safety
    /// The unit is there, and the processor has AVX2.
    unsafe fn group(&self, g: usize, half: usize) -> __m256i;
}

/// Whether a format's integers are taken out of their bytes as they are multiplied, where rows of `x` are few.
pub(super) const fn is_direct(format: u8) -> bool {
    matches!(format, Q8_0 | Q4_0 | Q4_1 | Q4_K)
}

/// Unit `unit` of a chunk whose vectors are at `body`; `ODD`: whether its number is.
pub(super) struct Stored<const F: u8, const ODD: bool> {
    pub body: *const u8,
    pub unit: usize,
}

impl<const F: u8, const ODD: bool> Weights for Stored<F, ODD> {
    #[inline(always)]
    unsafe fn group(&self, g: usize, half: usize) -> __m256i {
        let u = self.unit;
        // The vectors of the chunk as `packing::chunk` has them; of each byte one nibble.
        let (vector, upper) = match F {
            Q8_0 => (GROUPS * u + g % GROUPS, g >= GROUPS),
            Q4_K => (u / 2 * GROUPS + g, ODD),
            _ => (GROUPS / 2 * u + g % 4, g >= 4),
        };
        // SAFETY: the caller's promise.
        unsafe {
            let bytes = read(self.body.add(64 * vector + 32 * half));
            let bytes = if upper { _mm256_srli_epi16::<4>(bytes) } else { bytes };
            _mm256_and_si256(bytes, _mm256_set1_epi8(15))
        }
    }
}

/// A unit's unpacked integers, from here on.
pub(super) struct Unpacked(pub *const Line);

impl Weights for Unpacked {
    #[inline(always)]
    unsafe fn group(&self, g: usize, half: usize) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { read(self.0.add(g).cast::<u8>().add(32 * half)) }
    }
}

/// The integer sums of a unit, the `number`-th of the row, with each row of `x`.
///
/// # Safety
/// The unit is there, and the processor has AVX2.
#[inline(always)]
pub(super) unsafe fn multiply<const F: u8, const R: usize, W: Weights>(
    weights: &W,
    number: usize,
    x: &OfX<R>,
) -> [[__m256i; R]; HALVES] {
    let (groups, span) = (const { shape(F) }.groups, const { span(F) });
    let fours = &x.fours[number * groups / GROUPS][number * groups % GROUPS..][..groups];
    // SAFETY: the caller's promise.
    unsafe {
        let mut ints = [[_mm256_setzero_si256(); R]; HALVES];
        if F == Q8_0 || F == Q4_0 || F == Q6_K {
            for r in 0..R {
                let start = _mm256_set1_epi32(x.start[number][r]);
                for ints in &mut ints {
                    ints[r] = start;
                }
            }
        }
        for pass in 0..const { passes(F) } {
            let weight = _mm256_set1_epi16(if pass == 0 { 1 } else { 16 });
            for (part, fours) in fours.chunks_exact(span).enumerate() {
                let first = pass * groups + part * span;
                let mut sums = [[_mm256_setzero_si256(); R]; HALVES];
                for (g, fours) in fours.iter().enumerate() {
                    let group = [weights.group(first + g, 0), weights.group(first + g, 1)];
                    for r in 0..R {
                        let [a, b, c, d] = fours[r];
                        let four = _mm256_set1_epi32(i32::from_ne_bytes([a as u8, b as u8, c as u8, d as u8]));
                        for h in 0..HALVES {
                            sums[h][r] = add_pairs(sums[h][r], group[h], four);
                        }
                    }
                }
                for h in 0..HALVES {
                    for r in 0..R {
                        ints[h][r] = _mm256_add_epi32(ints[h][r], _mm256_madd_epi16(sums[h][r], weight));
                    }
                }
            }
        }
        ints
    }
}

/// `sums` and the products of unsigned `weights` by signed `four`, pair by pair. Written out, because the compiler, which knows that
/// such sums may be taken in any order, otherwise takes them in one that needs more registers than there are.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn add_pairs(mut sums: __m256i, weights: __m256i, four: __m256i) -> __m256i {
    // SAFETY: registers alone are read and written, and the processor has the instructions.
    unsafe {
        asm!(
            "vpmaddubsw {products}, {weights}, {four}",
            "vpaddw {sums}, {sums}, {products}",
            products = out(ymm_reg) _,
            weights = in(ymm_reg) weights,
            four = in(ymm_reg) four,
            sums = inout(ymm_reg) sums,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}

/// Adds a unit's products, the `number`-th of the row, to a tile's sums. `scales`: of each half what its integers are multiplied
/// by, and what is added for each column.
///
/// # Safety
/// The processor has AVX2 and FMA.
#[inline(always)]
pub(super) unsafe fn add<const F: u8, const R: usize>(
    ints: &[[__m256i; R]; HALVES],
    scales: [(__m256, __m256); HALVES],
    number: usize,
    x: &OfX<R>,
    sums: &mut [[__m256; R]; HALVES],
) {
    let shape = const { shape(F) };
    let block = number * shape.groups / GROUPS;
    for r in 0..R {
        for h in 0..HALVES {
            // SAFETY: the caller's promise.
            unsafe {
                let (scale, minimum) = scales[h];
                sums[h][r] = scaled(ints[h][r], scale, x.d[block][r], sums[h][r]);
                if shape.has_minimum {
                    sums[h][r] = _mm256_fmadd_ps(minimum, _mm256_set1_ps(x.sum[block][r]), sums[h][r]);
                }
            }
        }
    }
}

/// `sum + ints * (scale * d)`.
///
/// # Safety
/// The processor has AVX2 and FMA.
#[inline(always)]
pub(super) unsafe fn scaled(ints: __m256i, scale: __m256, d: f32, sum: __m256) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_fmadd_ps(_mm256_cvtepi32_ps(ints), _mm256_mul_ps(scale, _mm256_set1_ps(d)), sum) }
}

/// What unit `u` of the rows of half `half` is multiplied by, and what is added for each of its columns.
///
/// # Safety
/// The chunk at `at` is there, and the processor has AVX2, FMA and F16C.
#[inline(always)]
pub(super) unsafe fn scales<const F: u8>(at: *const u8, u: usize, half: usize) -> (__m256, __m256) {
    // SAFETY: the caller's promise; headers as `packing::chunk` has them.
    unsafe {
        match F {
            Q4_1 => (halves(at, 0, half), halves(at, 1, half)),
            Q4_K | Q5_K => {
                let scale = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight(at.add(SCALES_4K), u, half)));
                let minimum = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight(at.add(SCALES_4K), 8 + u, half)));
                let below = _mm256_fnmadd_ps(halves(at, 1, half), minimum, _mm256_setzero_ps());
                (_mm256_mul_ps(halves(at, 0, half), scale), below)
            }
            Q6_K => {
                let scale = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight(at.add(2 * TILE_ROWS), u, half)));
                (_mm256_mul_ps(halves(at, 0, half), scale), _mm256_setzero_ps())
            }
            _ => (halves(at, u, half), _mm256_setzero_ps()),
        }
    }
}

/// The `i`-th f16 of each row of a half, widened.
///
/// # Safety
/// They are there, and the processor has F16C.
#[inline(always)]
unsafe fn halves(at: *const u8, i: usize, half: usize) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.add((i * TILE_ROWS + half * LANES) * 2).cast())) }
}

/// The `i`-th byte of each row of a half.
///
/// # Safety
/// They are there.
#[inline(always)]
unsafe fn eight(at: *const u8, i: usize, half: usize) -> __m128i {
    // SAFETY: the caller's promise.
    unsafe { _mm_loadl_epi64(at.add(i * TILE_ROWS + half * LANES).cast()) }
}
