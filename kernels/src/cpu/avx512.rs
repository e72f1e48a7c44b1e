//! Weights in blocks, with AVX-512 and VNNI.
//!
//! A lane is a weight row: sixteen rows are transposed in registers (`avx512_load`) so that a
//! vector holds the same four elements of each, and `vpdpbusd` multiplies them by four activations
//! that stand in all lanes. A block's integer sum is exact and complete in one lane, so the
//! floating point work is three instructions for 512 products, and its order is that of the blocks
//! for any number of rows of `x`.
//!
//! Few rows of `x` (one panel) are multiplied straight from the registers; for more, the unpacked
//! tile is kept in the scratch. Both take the same [`step`].

use super::activations::{Activations, GROUPS, Panel};
use super::avx512_load::{Q4_0, Q4_1, Q8_0, block_bytes, four_q4_1, load, load_four_q4_1};
use super::linear::TILE;
use super::scratch::{Line, Scratch};
use super::shared::Shared;
use super::tile::Tile;
use super::weight::Weight;
use crate::Format;
use crate::format::BLOCK;
use std::arch::x86_64::*;
use std::ops::Range;

/// Rows of `x` in a panel.
pub(super) const WIDTH: usize = 8;
/// An unpacked block of a tile: eight vectors of integers, one of scales, one of minimums.
const LINES: usize = GROUPS + 2;

/// A block of sixteen weight rows, in registers.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// Unsigned; vector `g` has the elements from `4 * g` on.
    pub weights: [__m512i; GROUPS],
    pub scale: __m512,
    pub minimum: __m512,
}

/// Writes the outputs of the weight rows `rows` for every row of `x`.
///
/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn tiles(x: &Activations, w: &Weight, rows: Range<usize>, scratch: &mut Scratch, out: &Shared<f32>) {
    let stride = w.row(0).len();
    let (lines, space) = scratch.lines_and_rows(w.k() / BLOCK * LINES, TILE * stride);
    for first in rows.clone().step_by(TILE) {
        let count = TILE.min(rows.end - first);
        let tile = Tile::new(w, first, count, space);
        let store = Store { out, n: w.n(), columns: first..first + count };
        match w.format() {
            Format::Q4_1 => one_tile::<{ Q4_1 }>(x, &tile, lines, &store),
            Format::Q4_0 => one_tile::<{ Q4_0 }>(x, &tile, lines, &store),
            Format::Q8_0 => one_tile::<{ Q8_0 }>(x, &tile, lines, &store),
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

impl Store<'_> {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn put(&self, row: usize, sums: __m512) {
        let start = row * self.n + self.columns.start;
        // SAFETY: these columns are this tile's alone.
        let out = unsafe { self.out.part(start..start + self.columns.len()) };
        let mask = (1u32 << out.len()) - 1;
        // SAFETY: the mask has one bit for each element of `out`.
        unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), mask as __mmask16, sums) };
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn one_tile<const F: u8>(x: &Activations, tile: &Tile<TILE>, lines: &mut [Line], store: &Store) {
    let mut panels = x.panels();
    if let (Some(only), None) = (panels.next(), panels.next()) {
        match only.rows {
            1 => straight::<F, 1>(&only, tile, store),
            2 => straight::<F, 2>(&only, tile, store),
            3 => straight::<F, 3>(&only, tile, store),
            4 => straight::<F, 4>(&only, tile, store),
            5 => straight::<F, 5>(&only, tile, store),
            6 => straight::<F, 6>(&only, tile, store),
            7 => straight::<F, 7>(&only, tile, store),
            _ => straight::<F, 8>(&only, tile, store),
        }
        return;
    }
    unpack::<F>(tile, lines);
    for x in x.panels() {
        match x.rows {
            1 => unpacked::<F, 1>(&x, lines, store),
            2 => unpacked::<F, 2>(&x, lines, store),
            3 => unpacked::<F, 3>(&x, lines, store),
            4 => unpacked::<F, 4>(&x, lines, store),
            5 => unpacked::<F, 5>(&x, lines, store),
            6 => unpacked::<F, 6>(&x, lines, store),
            7 => unpacked::<F, 7>(&x, lines, store),
            _ => unpacked::<F, 8>(&x, lines, store),
        }
    }
}

/// A panel against a tile as it is stored.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn straight<const F: u8, const R: usize>(x: &Panel, tile: &Tile<TILE>, store: &Store) {
    let blocks = x.d.len() / R;
    assert!(blocks * block_bytes(F) <= tile.stride());
    let x = OfX::<R>::new(x);
    let mut sums = [_mm512_setzero_ps(); R];
    let mut b = 0;
    while b < blocks {
        if F == Q4_1 && b + 4 <= blocks {
            tile.prefetch_next(b, 4, block_bytes(F));
            // SAFETY: four blocks from `b` on are inside the row, and so are their bytes.
            let loaded = unsafe { load_four_q4_1(tile, b) };
            for i in 0..4 {
                // SAFETY: this function has the instructions.
                unsafe { step::<F, R>(&four_q4_1(&loaded, i), &x, b + i, &mut sums) };
            }
            b += 4;
        } else {
            tile.prefetch_next(b, 1, block_bytes(F));
            // SAFETY: block `b` is inside the row.
            let block = unsafe { load::<F>(tile, b) };
            // SAFETY: this function has the instructions.
            unsafe { step::<F, R>(&block, &x, b, &mut sums) };
            b += 1;
        }
    }
    x.put(sums, store);
}

/// A panel against an unpacked tile.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn unpacked<const F: u8, const R: usize>(x: &Panel, lines: &[Line], store: &Store) {
    let x = OfX::<R>::new(x);
    let mut sums = [_mm512_setzero_ps(); R];
    for (b, lines) in lines.as_chunks::<LINES>().0.iter().enumerate() {
        let mut weights = [_mm512_setzero_si512(); GROUPS];
        for (weights, line) in weights.iter_mut().zip(lines) {
            *weights = read(line);
        }
        let block = Block {
            weights,
            scale: _mm512_castsi512_ps(read(&lines[GROUPS])),
            minimum: _mm512_castsi512_ps(read(&lines[GROUPS + 1])),
        };
        // SAFETY: this function has the instructions.
        unsafe { step::<F, R>(&block, &x, b, &mut sums) };
    }
    x.put(sums, store);
}

/// Writes a tile to `lines` as [`unpacked`] reads it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn unpack<const F: u8>(tile: &Tile<TILE>, lines: &mut [Line]) {
    let blocks = lines.len() / LINES;
    assert!(blocks * block_bytes(F) <= tile.stride());
    let mut b = 0;
    while b < blocks {
        if F == Q4_1 && b + 4 <= blocks {
            tile.prefetch_next(b, 4, block_bytes(F));
            // SAFETY: four blocks from `b` on are inside the row, and so are their bytes.
            let loaded = unsafe { load_four_q4_1(tile, b) };
            for i in 0..4 {
                save_block(&four_q4_1(&loaded, i), &mut lines[(b + i) * LINES..]);
            }
            b += 4;
        } else {
            tile.prefetch_next(b, 1, block_bytes(F));
            // SAFETY: block `b` is inside the row.
            let block = unsafe { load::<F>(tile, b) };
            save_block(&block, &mut lines[b * LINES..]);
            b += 1;
        }
    }
}

/// A panel of `R` rows, block by block.
struct OfX<'a, const R: usize> {
    row: usize,
    fours: &'a [[[[i8; 4]; R]; GROUPS]],
    d: &'a [[f32; R]],
    sum: &'a [[f32; R]],
    start: &'a [[i32; R]],
}

impl<'a, const R: usize> OfX<'a, R> {
    #[inline(always)]
    fn new(x: &Panel<'a>) -> Self {
        Self {
            row: x.row,
            fours: x.fours.as_chunks::<R>().0.as_chunks::<GROUPS>().0,
            d: x.d.as_chunks::<R>().0,
            sum: x.sum.as_chunks::<R>().0,
            start: x.start.as_chunks::<R>().0,
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn put(&self, sums: [__m512; R], store: &Store) {
        for (r, sum) in sums.into_iter().enumerate() {
            store.put(self.row + r, sum);
        }
    }
}

/// Adds block `b`'s products to `sums`: the one place where it is decided how. Always inlined, so
/// that what it is given stays in registers; it has the instructions of where it is.
///
/// # Safety
/// The processor has AVX-512 and VNNI.
#[inline(always)]
unsafe fn step<const F: u8, const R: usize>(block: &Block, x: &OfX<R>, b: usize, sums: &mut [__m512; R]) {
    let (fours, start) = (&x.fours[b], &x.start[b]);
    let (d, sum) = (&x.d[b], &x.sum[b]);
    // SAFETY: the caller's promise.
    unsafe {
        let mut ints = [_mm512_setzero_si512(); R];
        for (int, start) in ints.iter_mut().zip(start) {
            *int = _mm512_set1_epi32(*start);
        }
        for (weights, fours) in block.weights.iter().zip(fours) {
            for (int, [a, b, c, d]) in ints.iter_mut().zip(fours) {
                let four = i32::from_ne_bytes([*a as u8, *b as u8, *c as u8, *d as u8]);
                *int = _mm512_dpbusd_epi32(*int, *weights, _mm512_set1_epi32(four));
            }
        }
        for r in 0..R {
            let scale = _mm512_mul_ps(block.scale, _mm512_set1_ps(d[r]));
            sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(ints[r]), scale, sums[r]);
            if F == Q4_1 {
                sums[r] = _mm512_fmadd_ps(block.minimum, _mm512_set1_ps(sum[r]), sums[r]);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn save_block(block: &Block, lines: &mut [Line]) {
    for (line, weights) in lines.iter_mut().zip(&block.weights) {
        save(line, *weights);
    }
    save(&mut lines[GROUPS], _mm512_castps_si512(block.scale));
    save(&mut lines[GROUPS + 1], _mm512_castps_si512(block.minimum));
}

#[inline]
#[target_feature(enable = "avx512f")]
fn read(line: &Line) -> __m512i {
    // SAFETY: 64 bytes, aligned to 64.
    unsafe { _mm512_load_si512(line.0.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn save(line: &mut Line, value: __m512i) {
    // SAFETY: 64 bytes, aligned to 64.
    unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), value) }
}
