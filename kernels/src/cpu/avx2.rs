//! Weights in blocks, with AVX2: as in `avx512`, with eight weight rows in eight lanes.
//!
//! AVX2 multiplies unsigned by signed bytes and adds pairs in 16 bits with saturation. Nibbles
//! cannot reach it; bytes are made positive and their sign is given to the activation, so a pair
//! is at most `2 * 128 * 127`, which fits.

use super::activations::{Activations, GROUPS, Panel};
use super::scratch::{Line, Scratch};
use super::shared::Shared;
use super::tile::Tile;
use super::weight::Weight;
use crate::Format;
use crate::format::BLOCK;
use std::arch::x86_64::*;
use std::ops::Range;

/// Weight rows in a vector.
const LANES: usize = 8;
/// A block of an unpacked tile in lines of two vectors: integers, then scales and minimums.
const LINES: usize = 5;
/// Where the scales and minimums are.
const SCALES: usize = 4;
/// Rows of `x` in a panel.
pub(super) const WIDTH: usize = 4;

/// Writes the outputs of the weight rows `rows` for every row of `x`.
///
/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn tiles(x: &Activations, w: &Weight, rows: Range<usize>, scratch: &mut Scratch, out: &Shared<f32>) {
    let (lines, space) = scratch.lines_and_rows(w.k() / BLOCK * LINES, LANES * w.row(0).len());
    for first in rows.clone().step_by(LANES) {
        let count = LANES.min(rows.end - first);
        let tile = Tile::new(w, first, count, space);
        let store = Store { out, n: w.n(), columns: first..rows.end.min(first + LANES) };
        match w.format() {
            Format::Q4_1 => {
                unpack_q4::<20, true>(&tile, lines);
                all_rows::<true, false>(x, lines, &store);
            }
            Format::Q4_0 => {
                unpack_q4::<18, false>(&tile, lines);
                all_rows::<false, false>(x, lines, &store);
            }
            Format::Q8_0 => {
                unpack_q8(&tile, lines);
                all_rows::<false, true>(x, lines, &store);
            }
            _ => unreachable!("multiplied in float32"),
        }
    }
}

/// Where a tile's outputs go.
struct Store<'a> {
    out: &'a Shared<'a, f32>,
    n: usize,
    columns: Range<usize>,
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn all_rows<const MIN: bool, const SIGNED: bool>(x: &Activations, tile: &[Line], store: &Store) {
    for x in x.panels() {
        match x.rows {
            1 => some_rows::<1, MIN, SIGNED>(&x, tile, store),
            2 => some_rows::<2, MIN, SIGNED>(&x, tile, store),
            3 => some_rows::<3, MIN, SIGNED>(&x, tile, store),
            4 => some_rows::<4, MIN, SIGNED>(&x, tile, store),
            rows => unreachable!("a panel of {rows} rows"),
        }
    }
}

/// A panel of `R` rows of `x` against a tile.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn some_rows<const R: usize, const MIN: bool, const SIGNED: bool>(x: &Panel, tile: &[Line], store: &Store) {
    let ones = _mm256_set1_epi16(1);
    let blocks = tile.as_chunks::<LINES>().0.iter();
    let fours = x.fours.as_chunks::<R>().0.as_chunks::<GROUPS>().0;
    let (d, sum) = (x.d.as_chunks::<R>().0, x.sum.as_chunks::<R>().0);
    let of_x = fours.iter().zip(d).zip(sum).zip(x.start.as_chunks::<R>().0);
    let mut sums = [_mm256_setzero_ps(); R];
    for (block, (((fours, d), sum), start)) in blocks.zip(of_x) {
        let mut ints = [_mm256_setzero_si256(); R];
        for (int, start) in ints.iter_mut().zip(start) {
            *int = _mm256_set1_epi32(*start);
        }
        for (g, fours) in fours.iter().enumerate() {
            let weights = load(block, g);
            for r in 0..R {
                let [f0, f1, f2, f3] = fours[r];
                let four = _mm256_set1_epi32(i32::from_ne_bytes([f0 as u8, f1 as u8, f2 as u8, f3 as u8]));
                let pairs = if SIGNED {
                    let four = _mm256_sign_epi8(four, weights);
                    _mm256_maddubs_epi16(_mm256_abs_epi8(weights), four)
                } else {
                    _mm256_maddubs_epi16(weights, four)
                };
                ints[r] = _mm256_add_epi32(ints[r], _mm256_madd_epi16(pairs, ones));
            }
        }
        let scale = _mm256_castsi256_ps(load(block, 2 * SCALES));
        let minimum = _mm256_castsi256_ps(load(block, 2 * SCALES + 1));
        for r in 0..R {
            let d = _mm256_mul_ps(scale, _mm256_set1_ps(d[r]));
            sums[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(ints[r]), d, sums[r]);
            if MIN {
                sums[r] = _mm256_fmadd_ps(minimum, _mm256_set1_ps(sum[r]), sums[r]);
            }
        }
    }
    for (r, sum) in sums.into_iter().enumerate() {
        store.put(x.row + r, sum);
    }
}

impl Store<'_> {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn put(&self, row: usize, sums: __m256) {
        let start = row * self.n + self.columns.start;
        // SAFETY: these columns are this tile's alone.
        let out = unsafe { self.out.part(start..start + self.columns.len()) };
        let mut all = [0f32; LANES];
        // SAFETY: eight numbers.
        unsafe { _mm256_storeu_ps(all.as_mut_ptr(), sums) };
        out.copy_from_slice(&all[..out.len()]);
    }
}

/// Vector `i` of a block: a line holds two.
#[inline]
#[target_feature(enable = "avx2")]
fn load(block: &[Line], i: usize) -> __m256i {
    let half = &block[i / 2].0.as_chunks::<32>().0[i % 2];
    // SAFETY: 32 bytes, a half of an aligned line.
    unsafe { _mm256_load_si256(half.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn save(block: &mut [Line], i: usize, value: __m256i) {
    let half = &mut block[i / 2].0.as_chunks_mut::<32>().0[i % 2];
    // SAFETY: 32 bytes, a half of an aligned line.
    unsafe { _mm256_store_si256(half.as_mut_ptr().cast(), value) }
}

/// Nibbles as stored, from 0 to 15.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn unpack_q4<const BYTES: usize, const MIN: bool>(rows: &Tile<LANES>, lines: &mut [Line]) {
    assert!(lines.len() / LINES * BYTES <= rows.stride());
    let low = _mm256_set1_epi8(15);
    for (b, block) in lines.as_chunks_mut::<LINES>().0.iter_mut().enumerate() {
        let at = b * BYTES;
        // SAFETY: inside block `b`, as checked above.
        let quants = unsafe { transpose(rows, at + if MIN { 4 } else { 2 }) };
        for (g, nibbles) in quants.into_iter().enumerate() {
            save(block, g, _mm256_and_si256(nibbles, low));
            let high = _mm256_srli_epi16::<4>(nibbles);
            save(block, g + 4, _mm256_and_si256(high, low));
        }
        // SAFETY: inside block `b`, as checked above.
        save(block, 2 * SCALES, unsafe { halves(rows, at) });
        if MIN {
            // SAFETY: inside block `b`, as checked above.
            save(block, 2 * SCALES + 1, unsafe { halves(rows, at + 2) });
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn unpack_q8(rows: &Tile<LANES>, lines: &mut [Line]) {
    assert!(lines.len() / LINES * 34 <= rows.stride());
    for (b, block) in lines.as_chunks_mut::<LINES>().0.iter_mut().enumerate() {
        let at = b * 34;
        for half in 0..2 {
            // SAFETY: inside block `b`, as checked above.
            let quants = unsafe { transpose(rows, at + 2 + 16 * half) };
            for (g, bytes) in quants.into_iter().enumerate() {
                save(block, 4 * half + g, bytes);
            }
        }
        // SAFETY: inside block `b`, as checked above.
        save(block, 2 * SCALES, unsafe { halves(rows, at) });
    }
}

/// The binary16 at byte `at` of each row, widened.
///
/// # Safety
/// `at` and what is read from there on are inside a row.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn halves(rows: &Tile<LANES>, at: usize) -> __m256i {
    let mut halves = [0u16; LANES];
    for (i, half) in halves.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *half = unsafe { rows.read(i, at) };
    }
    // SAFETY: eight times two bytes.
    let halves = unsafe { _mm_loadu_si128(halves.as_ptr().cast()) };
    _mm256_castps_si256(_mm256_cvtph_ps(halves))
}

/// Sixteen bytes from `at` on of each row; vector `i` gets the four bytes from `at + 4 * i` on,
/// row by row.
///
/// # Safety
/// `at` and what is read from there on are inside a row.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn transpose(rows: &Tile<LANES>, at: usize) -> [__m256i; 4] {
    let mut twos = [_mm256_setzero_si256(); 4];
    for (i, two) in twos.iter_mut().enumerate() {
        // SAFETY: the caller's promise; any sixteen bytes are a vector.
        let [a, b] = unsafe { [rows.read(i, at), rows.read(i + 4, at)] };
        *two = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b);
    }
    let [a, b, c, d] = twos;
    let (ab_low, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let (cd_low, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    [
        _mm256_unpacklo_epi64(ab_low, cd_low),
        _mm256_unpackhi_epi64(ab_low, cd_low),
        _mm256_unpacklo_epi64(ab_high, cd_high),
        _mm256_unpackhi_epi64(ab_high, cd_high),
    ]
}
