//! Activations in 8 bits and in bfloat16 with AVX-512: the bits of [`super::activations`]' own code, 32 numbers of a row at a time. Only
//! the integers of a block whose scale is no number may be others.

use super::activations::{Blocks, GROUPS, rounded_pair};
use crate::format::BLOCK;
use std::arch::x86_64::*;
use std::ops::Range;

/// Most rows of a panel.
const ROWS_MAX: usize = 8;

/// Calls a function of so many rows with their number as a constant.
macro_rules! for_rows {
    ($rows:expr, $function:ident ( $($argument:expr),* )) => {
        match $rows {
            1 => $function::<1>($($argument),*),
            2 => $function::<2>($($argument),*),
            3 => $function::<3>($($argument),*),
            4 => $function::<4>($($argument),*),
            5 => $function::<5>($($argument),*),
            6 => $function::<6>($($argument),*),
            7 => $function::<7>($($argument),*),
            ROWS_MAX => $function::<ROWS_MAX>($($argument),*),
            rows => panic!("{rows} rows of a panel, {ROWS_MAX} at most"),
        }
    };
}

/// Quantises the blocks `blocks` of the rows of `x [rows, k]` to `to`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(super) fn quantize(x: &[f32], k: usize, blocks: Range<usize>, to: Blocks, zero: i32) {
    for_rows!(x.len() / k, quantize_rows(x, k, blocks, to, zero));
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn quantize_rows<const R: usize>(x: &[f32], k: usize, blocks: Range<usize>, to: Blocks, zero: i32) {
    let x: [&[[f32; BLOCK]]; R] = std::array::from_fn(|r| &x[r * k..][..k].as_chunks().0[blocks.clone()]);
    let units = to.start.len() / to.d.len();
    let d = to.d.as_chunks_mut::<R>().0.iter_mut();
    let sums = to.sum.as_chunks_mut::<R>().0.iter_mut();
    let starts = to.start.chunks_exact_mut(units * R);
    let fours = to.fours.as_chunks_mut::<R>().0.as_chunks_mut::<GROUPS>().0.iter_mut();
    for (b, (((d, sum), start), fours)) in d.zip(sums).zip(starts).zip(fours).enumerate() {
        // The scales of all rows first: none is waited for by the next row then.
        let mut inverses = [0.0; R];
        for r in 0..R {
            let largest = largest(&x[r][b]);
            d[r] = largest / 127.0;
            inverses[r] = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        }
        let mut bytes = [_mm256_setzero_si256(); R];
        for r in 0..R {
            let sums;
            (bytes[r], sums) = integers(&x[r][b], inverses[r]);
            let all = sums[0] + sums[1];
            sum[r] = d[r] * all as f32;
            match units {
                1 => start[r] = -zero * all,
                _ => (start[r], start[R + r]) = (-zero * sums[0], -zero * sums[1]),
            }
        }
        put_fours(&bytes, fours);
    }
}

/// The largest size in a block; what is no number is larger than all.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn largest(x: &[f32; BLOCK]) -> f32 {
    // Compared as integers, because then what is no number is the largest.
    let size = _mm512_set1_epi32(0x7fff_ffff);
    let sizes = halves(x).map(|x| _mm512_and_si512(_mm512_castps_si512(x), size));
    f32::from_bits(_mm512_reduce_max_epi32(_mm512_max_epi32(sizes[0], sizes[1])) as u32)
}

/// A block's integers, and the sums of the first and the last sixteen.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn integers(x: &[f32; BLOCK], inverse: f32) -> (__m256i, [i32; 2]) {
    let inverse = _mm512_set1_ps(inverse);
    // To nearest, ties to even. Of what is no number, or beyond all integers because the largest is so small, the lowest byte is 0.
    let bytes = halves(x).map(|x| _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(_mm512_mul_ps(x, inverse))));
    let bytes = _mm256_set_m128i(bytes[1], bytes[0]);
    let sums = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), bytes);
    let pairs = _mm256_add_epi32(sums, _mm256_shuffle_epi32::<0b10_11_00_01>(sums));
    let halves = _mm256_add_epi32(pairs, _mm256_shuffle_epi32::<0b01_00_11_10>(pairs));
    (bytes, [_mm256_extract_epi32::<0>(halves), _mm256_extract_epi32::<4>(halves)])
}

#[inline]
#[target_feature(enable = "avx512f")]
fn halves(x: &[f32; BLOCK]) -> [__m512; 2] {
    // SAFETY: 32 numbers are two vectors.
    unsafe { [_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))] }
}

/// Numbers of 32 bits in a vector.
const LANES: usize = 16;

/// `[row, group]` becomes `[group, row]`, a group one number.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
fn put_fours<const R: usize>(rows: &[__m256i; R], to: &mut [[[i8; 4]; R]; GROUPS]) {
    // Halves of a vector are rows apart, and what is behind a half is nothing: the compiler would load as one what has just been stored as two, for
    // which processors wait.
    let count = R.div_ceil(2);
    let mut vectors = [_mm512_setzero_si512(); ROWS_MAX];
    for r in 0..count {
        vectors[r] = _mm512_zextsi256_si512(rows[r]);
    }
    for r in count..R {
        vectors[r - count] = _mm512_inserti64x4::<1>(vectors[r - count], rows[r]);
    }
    // SAFETY: `to` are as many numbers; the processor has the instructions.
    unsafe { put_turned::<R, GROUPS>(&vectors, to.as_mut_ptr().cast()) };
}

/// Where the numbers of a vector of `[column, row]` are in `[row, column]`.
#[derive(Clone, Copy)]
struct Place {
    /// Lanes of a pair of vectors.
    lanes: [u32; LANES],
    /// Of each pair the numbers that are in it, a bit each.
    pairs: [u16; ROWS_MAX / 2],
}

const fn places<const R: usize>(columns: usize) -> [Place; ROWS_MAX] {
    let vectors = (R * columns).div_ceil(LANES);
    let mut places = [Place { lanes: [0; LANES], pairs: [0; ROWS_MAX / 2] }; ROWS_MAX];
    let mut i = 0;
    while i < R * columns {
        let (row, column) = (i % R, i / R);
        let (vector, lane) = (row % vectors, row / vectors * columns + column);
        let place = &mut places[i / LANES];
        place.lanes[i % LANES] = (vector % 2 * LANES + lane) as u32;
        place.pairs[vector / 2] |= 1 << (i % LANES);
        i += 1;
    }
    places
}

/// Writes the `R · C` numbers of `[row, column]` as `[column, row]`. As few vectors as hold them have a row each, and behind it, where there is
/// room, the row that comes as many rows later.
///
/// # Safety
/// There is room for them; the processor has AVX-512.
#[inline(always)]
unsafe fn put_turned<const R: usize, const C: usize>(rows: &[__m512i; ROWS_MAX], to: *mut i32) {
    for v in 0..(R * C).div_ceil(LANES) {
        let place = &const { places::<R>(C) }[v];
        // SAFETY: a vector of numbers; the caller's promise.
        unsafe {
            let lanes = _mm512_loadu_si512(place.lanes.as_ptr().cast());
            let mut out = _mm512_permutex2var_epi32(rows[0], lanes, rows[1]);
            for pair in 1..(R * C).div_ceil(LANES).div_ceil(2) {
                let more = _mm512_permutex2var_epi32(rows[2 * pair], lanes, rows[2 * pair + 1]);
                out = _mm512_mask_blend_epi32(place.pairs[pair], out, more);
            }
            let left = R * C - v * LANES;
            let inside = if left < LANES { (1 << left) - 1 } else { !0 };
            _mm512_mask_storeu_epi32(to.add(v * LANES), inside, out);
        }
    }
}

/// Rounds the columns `columns`, counted in pairs, of the rows of `x [rows, k]` to bfloat16: `pairs [column, row]`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
pub(super) fn round(x: &[f32], k: usize, columns: Range<usize>, pairs: &mut [u32]) {
    for_rows!(x.len() / k, round_rows(x, k, columns, pairs));
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn round_rows<const R: usize>(x: &[f32], k: usize, columns: Range<usize>, pairs: &mut [u32]) {
    let x: [&[[f32; 2]]; R] = std::array::from_fn(|r| &x[r * k..][..k].as_chunks().0[columns.clone()]);
    let (whole, rest) = pairs.as_chunks_mut::<R>().0.as_chunks_mut::<LANES>();
    for (i, to) in whole.iter_mut().enumerate() {
        let mut vectors = [_mm512_setzero_si512(); ROWS_MAX];
        for r in 0..R {
            vectors[r] = round_pairs(&x[r].as_chunks().0[i]);
        }
        // SAFETY: `to` are as many numbers; the processor has the instructions.
        unsafe { put_turned::<R, LANES>(&vectors, to.as_mut_ptr().cast()) };
    }
    let done = whole.len() * LANES;
    for (c, to) in rest.iter_mut().enumerate() {
        for r in 0..R {
            to[r] = rounded_pair(&x[r][done + c]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
fn round_pairs(x: &[[f32; 2]; LANES]) -> __m512i {
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
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(a)), _mm512_cvtepi32_epi16(b))
}
