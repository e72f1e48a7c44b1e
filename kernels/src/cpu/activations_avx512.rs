//! Activations in 8 bits and in bfloat16 with AVX-512: the bits of [`super::activations`]' own code, 32 numbers of a row at a time. Only
//! the integers of a block whose scale is no number may be others.

use super::activations::{Blocks, GROUPS, rounded_pair};
use crate::format::BLOCK;
use std::arch::x86_64::*;
use std::ops::Range;

/// Quantises the blocks `blocks` of the rows of `x [rows, k]` to `to`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(super) fn quantize(x: &[f32], k: usize, blocks: Range<usize>, to: Blocks, zero: i32) {
    let Blocks { fours, d, sum, start } = to;
    let rows = x.len() / k;
    let units = start.len() / d.len();
    for (row, x) in x.chunks_exact(k).enumerate() {
        for (b, x) in x.as_chunks::<BLOCK>().0[blocks.clone()].iter().enumerate() {
            let block = block(x);
            let at = b * rows + row;
            d[at] = block.scale;
            sum[at] = block.scale * (block.halves[0] + block.halves[1]) as f32;
            match units {
                1 => start[at] = -zero * (block.halves[0] + block.halves[1]),
                _ => (0..2).for_each(|u| start[(b * 2 + u) * rows + row] = -zero * block.halves[u]),
            }
            let fours = &mut fours[b * GROUPS * rows..][..GROUPS * rows];
            for (g, four) in block.fours.iter().enumerate() {
                fours[g * rows + row] = *four;
            }
        }
    }
}

struct Block {
    scale: f32,
    fours: [[i8; 4]; GROUPS],
    /// Sums of the first and the last sixteen.
    halves: [i32; 2],
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn block(x: &[f32; BLOCK]) -> Block {
    // SAFETY: 32 numbers are two vectors.
    let [a, b] = unsafe { [_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))] };
    // Compared as integers, because then what is no number is the largest.
    let size = _mm512_set1_epi32(0x7fff_ffff);
    let sizes = [a, b].map(|x| _mm512_and_si512(_mm512_castps_si512(x), size));
    let largest = f32::from_bits(_mm512_reduce_max_epi32(_mm512_max_epi32(sizes[0], sizes[1])) as u32);
    let inverse = _mm512_set1_ps(if largest > 0.0 { 127.0 / largest } else { 0.0 });
    // To nearest, ties to even. Of what is no number, or beyond all integers because the largest is so small, the lowest byte is 0.
    let bytes = [a, b].map(|x| _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(x, inverse))));
    let bytes = _mm256_set_m128i(bytes[1], bytes[0]);
    let sums = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), bytes);
    let pairs = _mm256_add_epi32(sums, _mm256_shuffle_epi32::<0b10_11_00_01>(sums));
    let halves = _mm256_add_epi32(pairs, _mm256_shuffle_epi32::<0b01_00_11_10>(pairs));
    let halves = [_mm256_extract_epi32::<0>(halves), _mm256_extract_epi32::<4>(halves)];
    let mut fours = [[0; 4]; GROUPS];
    // SAFETY: 32 bytes.
    unsafe { _mm256_storeu_si256(fours.as_mut_ptr().cast(), bytes) };
    Block { scale: largest / 127.0, fours, halves }
}

/// Rounds the columns `columns`, counted in pairs, of the rows of `x [rows, k]` to bfloat16: `pairs [column, row]`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) fn round(x: &[f32], k: usize, columns: Range<usize>, pairs: &mut [u32]) {
    const PAIRS: usize = 16;
    let rows = x.len() / k;
    for (row, x) in x.chunks_exact(k).enumerate() {
        let x = &x.as_chunks::<2>().0[columns.clone()];
        let (whole, rest) = x.as_chunks::<PAIRS>();
        for (x, pairs) in whole.iter().zip(pairs.chunks_exact_mut(PAIRS * rows)) {
            for (pair, to) in round_pairs(x).iter().zip(pairs.chunks_exact_mut(rows)) {
                to[row] = *pair;
            }
        }
        let done = whole.len() * PAIRS;
        for (x, to) in rest.iter().zip(pairs[done * rows..].chunks_exact_mut(rows)) {
            to[row] = rounded_pair(x);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn round_pairs(x: &[[f32; 2]; 16]) -> [u32; 16] {
    let (one, half) = (_mm512_set1_epi32(1), _mm512_set1_epi32(0x7fff));
    let x = x.as_flattened();
    // SAFETY: 32 numbers are two vectors.
    let numbers = unsafe { [_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))] };
    // To nearest, ties to even, as integers; what is no number keeps its upper bits and becomes a quiet one.
    let [a, b] = numbers.map(|x| {
        let bits = _mm512_castps_si512(x);
        let upper = _mm512_srli_epi32::<16>(bits);
        let odd = _mm512_and_si512(upper, one);
        let nearest = _mm512_srli_epi32::<16>(_mm512_add_epi32(_mm512_add_epi32(bits, half), odd));
        let none = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
        _mm512_mask_or_epi32(nearest, none, upper, _mm512_set1_epi32(0x40))
    });
    // Of each vector the lower halves of its lanes: sixteen numbers.
    let pairs = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(a)), _mm512_cvtepi32_epi16(b));
    let mut out = [0; 16];
    // SAFETY: 64 bytes.
    unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), pairs) };
    out
}
