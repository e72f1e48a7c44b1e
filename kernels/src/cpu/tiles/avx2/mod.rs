//! Packed weights with AVX2: blocks in 8 bits, bfloat16 in float32.
//!
//! A tile's sixteen rows are two vectors of eight. AVX2 multiplies unsigned by signed bytes and adds pairs in 16 bits; as many
//! groups as cannot reach the end of 16 bits are added up there before they are widened. Both halves of a tile and a panel of rows of
//! `x` are worked on together. For up to eight rows the integers of Q8_0, Q4_0, Q4_1 and Q4_K, which are nibbles of a byte, are taken out
//! as they are multiplied, and for one row those of Q6_K; those of other formats, and for more rows all, are unpacked into the scratch before.

mod floats;
mod six;
mod store;
mod units;
mod unpack;
mod unpacked;

pub(in crate::cpu) use floats::bf16;

use super::ahead::prefetch;
use super::operands::{OfX, Part};
use super::shape::{Q4_0, Q4_1, Q4_K, Q5_K, Q6_K, Q8_0, lines_of, shape};
use crate::Format;
use crate::cpu::activations::{Activations, GROUPS, Panel};
use crate::cpu::scratch::{Line, Scratch};
use crate::cpu::shared::Shared;
use crate::cpu::weight::Weight;
use crate::packing::TILE_ROWS;
use std::arch::x86_64::*;
use std::ops::Range;
use store::Store;
use units::{Stored, add, multiply, scales};
use unpack::unpack;
use unpacked::unpacked;

/// Most rows of `x` in a panel: their integers take eight of the sixteen registers.
pub(in crate::cpu) const WIDTH: usize = 4;
/// Rows of a vector.
const LANES: usize = 8;
/// Vectors of a tile's rows.
const HALVES: usize = TILE_ROWS / LANES;
/// The cache is asked for what comes so many bytes after what is read: of a chunk several parts are read side by side, which the
/// processor does not foresee.
const AHEAD: usize = 8 << 10;
/// Columns of a tile that are unpacked at once: they stay in the first cache.
const SLICE: usize = 512;

/// With more rows of `x` than this all weights are unpacked.
const DIRECT_ROWS: usize = 2 * WIDTH;

/// Writes the outputs of the tiles `tiles` for every row of `x`; weights in blocks.
///
/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::cpu) unsafe fn blocks(
    x: &Activations,
    w: &Weight,
    tiles: Range<usize>,
    scratch: &mut Scratch,
    out: &Shared<f32>,
) {
    match w.format() {
        Format::Q8_0 => all_tiles::<{ Q8_0 }>(x, w, tiles, scratch, out),
        Format::Q4_0 => all_tiles::<{ Q4_0 }>(x, w, tiles, scratch, out),
        Format::Q4_1 => all_tiles::<{ Q4_1 }>(x, w, tiles, scratch, out),
        Format::Q4_K => all_tiles::<{ Q4_K }>(x, w, tiles, scratch, out),
        Format::Q5_K => all_tiles::<{ Q5_K }>(x, w, tiles, scratch, out),
        Format::Q6_K => all_tiles::<{ Q6_K }>(x, w, tiles, scratch, out),
        _ => unreachable!("no packed format of blocks"),
    }
}

/// Tiles one after the other: multiplied as their bytes are read, or some columns are unpacked, multiplied with all rows, and so on to the
/// end of the tile; between, the sums wait in the scratch.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn all_tiles<const F: u8>(x: &Activations, w: &Weight, tiles: Range<usize>, scratch: &mut Scratch, out: &Shared<f32>) {
    let shape = const { shape(F) };
    if const { units::is_direct(F) } && x.rows() <= DIRECT_ROWS {
        for tile in tiles {
            direct_panels::<F>(x, w.tile(tile), &Store { out, n: w.n(), column: tile * TILE_ROWS });
        }
        return;
    }
    if F == Q6_K && x.rows() == 1 {
        for (tile, x) in tiles.flat_map(|tile| x.panels().map(move |x| (tile, x))) {
            six::one_row(&x, w.tile(tile), &Store { out, n: w.n(), column: tile * TILE_ROWS });
        }
        return;
    }
    let columns = shape.units * shape.groups * 4;
    let (chunks, slice) = (w.k() / columns, SLICE / columns);
    let (lines, waiting) = scratch.lines(slice * shape.units * const { unpack::unit_lines(F) }, x.rows());
    for tile in tiles {
        let store = Store { out, n: w.n(), column: tile * TILE_ROWS };
        let tile = w.tile(tile);
        for first in (0..chunks).step_by(slice) {
            let some = first..chunks.min(first + slice);
            unpack::<F>(&tile[some.start * shape.chunk..some.end * shape.chunk], lines);
            let part = Part { units: some.start * shape.units..some.end * shape.units, of: chunks * shape.units };
            panels::<F>(x, &part, (lines, waiting), &store);
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn panels<const F: u8>(x: &Activations, part: &Part, (lines, waiting): (&[Line], &mut [Line]), store: &Store) {
    for x in x.panels() {
        let waiting = &mut waiting[x.row..x.row + x.rows];
        match x.rows {
            1 => unpacked::<F, 1>(&x, part, lines, waiting, store),
            2 => unpacked::<F, 2>(&x, part, lines, waiting, store),
            3 => unpacked::<F, 3>(&x, part, lines, waiting, store),
            _ => unpacked::<F, 4>(&x, part, lines, waiting, store),
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn direct_panels<const F: u8>(x: &Activations, tile: &[u8], store: &Store) {
    for x in x.panels() {
        match x.rows {
            1 => direct::<F, 1>(&x, tile, store),
            2 => direct::<F, 2>(&x, tile, store),
            3 => direct::<F, 3>(&x, tile, store),
            _ => direct::<F, 4>(&x, tile, store),
        }
    }
}

/// A tile with a panel of `R` rows of `x`, its integers taken out of their bytes as they are multiplied.
#[target_feature(enable = "avx2,fma,f16c")]
fn direct<const F: u8, const R: usize>(x: &Panel, tile: &[u8], store: &Store) {
    let shape = const { shape(F) };
    let of_x = OfX::<R>::new(x);
    let chunks = of_x.fours.len() * GROUPS / (shape.units * shape.groups);
    // Every read below is inside a chunk, and there are so many.
    assert!(tile.len() >= chunks * shape.chunk);
    let mut sums = [[_mm256_setzero_ps(); R]; HALVES];
    for c in 0..chunks {
        // SAFETY: chunk `c` is inside the tile and has these units; the processor has the instructions.
        unsafe {
            let at = tile.as_ptr().add(c * shape.chunk);
            let number = c * shape.units;
            for u in (0..shape.units).step_by(2) {
                unit::<F, R, false>(at, u, number + u, &of_x, &mut sums);
                if u + 1 < shape.units {
                    unit::<F, R, true>(at, u + 1, number + u + 1, &of_x, &mut sums);
                }
            }
        }
    }
    store.put(x.row, &sums);
}

/// Adds unit `u` of the chunk at `at`, the `number`-th of the row, to `sums`.
///
/// # Safety
/// The chunk is there, and the processor has AVX2, FMA and F16C.
#[inline(always)]
unsafe fn unit<const F: u8, const R: usize, const ODD: bool>(
    at: *const u8,
    u: usize,
    number: usize,
    x: &OfX<R>,
    sums: &mut [[__m256; R]; HALVES],
) {
    ask::<F>(at, u);
    // SAFETY: the caller's promise.
    unsafe {
        let weights = Stored::<F, ODD> { body: at.add(const { shape(F) }.header), unit: u };
        let ints = multiply::<F, R, _>(&weights, number, x);
        add::<F, R>(&ints, [scales::<F>(at, u, 0), scales::<F>(at, u, 1)], number, x, sums);
    }
}

/// Asks the cache for unit `u`'s share of what comes after the chunk at `at`.
#[inline(always)]
fn ask<const F: u8>(at: *const u8, u: usize) {
    let (shape, lines) = (const { shape(F) }, const { lines_of::<F>() });
    let some = 64 * (u * lines / shape.units)..64 * ((u + 1) * lines / shape.units);
    prefetch(at.wrapping_add(AHEAD + some.start), some.len(), false);
}

/// # Safety
/// 32 bytes are there, and the processor has AVX2.
#[inline(always)]
unsafe fn read(at: *const u8) -> __m256i {
    // SAFETY: the caller's promise.
    unsafe { _mm256_loadu_si256(at.cast()) }
}
