//! Packed weights with AVX-512: VNNI for blocks, BF16 where the processor has it. A load is an operand. A few tiles and a panel of
//! rows of `x` are worked on together, with all sums in registers. Superblocks, whose integers have to be put together, are unpacked into
//! the scratch where there are many rows of `x`.

mod bf16;
mod store;
mod units;
mod unpacked;

pub(in crate::cpu) use bf16::bf16;

use super::ahead::prefetch;
use super::operands::{OfX, Part};
use super::shape::{Q4_0, Q4_1, Q4_K, Q5_K, Q6_K, Q8_0, Shape, lines_of, shape};
use crate::Format;
use crate::cpu::activations::{Activations, GROUPS, Panel};
use crate::cpu::scratch::{Line, Scratch};
use crate::cpu::shared::Shared;
use crate::cpu::weight::Weight;
use crate::packing::TILE_ROWS;
use std::arch::x86_64::*;
use std::ops::Range;
use store::Store;
use units::{half_of_units, pair_of_units, run_of_units, unit};
use unpacked::{unpack, unpacked};

/// Most rows of `x` in a panel: with two tiles their sums take 24 of the 32 registers.
const WIDTH: usize = 6;
/// Tiles that are worked on together.
const TILES: usize = 2;
/// The same in bfloat16, which needs no integers beside the sums.
const TILES_BF16: usize = 4;
/// So many rows of `x` are all in one panel, with fewer tiles: a weight is then read once for them.
const WIDE: usize = 8;

/// Tiles up to this size are short for the processor, which foresees a stream only once it flows: what comes after them is
/// asked for aloud. In longer ones it is told a little ahead of itself, which is worth something where there is more to compute
/// than to wait for.
const SHORT_BYTES: usize = 8 << 10;
/// So far, shared among the tiles that are read side by side.
const AHEAD: usize = 8 << 10;
/// With more rows of `x` than this, superblocks are unpacked into the scratch.
const DIRECT_ROWS: usize = 2 * WIDTH;
/// Superblocks of a tile that are unpacked at once: what two tiles have of them stays in the first cache.
const SLICE: usize = 2;

/// Most rows of a panel, of `rows` in all.
pub(in crate::cpu) fn width(rows: usize) -> usize {
    if rows <= WIDE { WIDE } else { WIDTH }
}

/// Tiles are read one by one: for one row of `x` the memory is what counts, which is read faster as one stream than as several, and
/// beside so many that all are in one panel there is no room for the sums of another tile.
fn reads_alone(rows: usize) -> bool {
    rows == 1 || (WIDTH + 1..=WIDE).contains(&rows)
}

impl Shape {
    /// Its integers are not stored as they are multiplied.
    const fn is_superblock(&self) -> bool {
        self.units > 2
    }

    /// Lines of an unpacked unit: scale, minimum, integers.
    const fn unpacked(&self) -> usize {
        2 + self.groups
    }
}

/// Writes the outputs of the tiles `tiles` for every row of `x`; weights in blocks.
///
/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
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

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn all_tiles<const F: u8>(x: &Activations, w: &Weight, tiles: Range<usize>, scratch: &mut Scratch, out: &Shared<f32>) {
    let shape = const { shape(F) };
    let lines = SLICE * shape.units * shape.unpacked();
    let unpacks = shape.is_superblock() && x.rows() > DIRECT_ROWS;
    let (lines, waiting) =
        if unpacks { scratch.lines(TILES * lines, TILES * x.rows()) } else { (&mut [][..], &mut [][..]) };
    let mut tile = tiles.start;
    while tile < tiles.end {
        let store = Store { out, n: w.n(), column: tile * TILE_ROWS };
        if tile + TILES <= tiles.end && !reads_alone(x.rows()) {
            let bytes: [&[u8]; TILES] = std::array::from_fn(|i| w.tile(tile + i));
            panels::<F, TILES>(x, &bytes, (lines, waiting), &store);
            tile += TILES;
        } else {
            let half = lines.len() / TILES;
            panels::<F, 1>(x, &[w.tile(tile)], (&mut lines[..half], waiting), &store);
            tile += 1;
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn panels<const F: u8, const T: usize>(
    x: &Activations,
    tiles: &[&[u8]; T],
    (lines, waiting): (&mut [Line], &mut [Line]),
    store: &Store,
) {
    if !lines.is_empty() {
        return slices::<F, T>(x, tiles, (lines, waiting), store);
    }
    // Later panels find the tiles in the cache.
    let mut ahead = ahead(tiles);
    for x in x.panels() {
        match x.rows {
            1 => panel::<F, T, 1>(&x, tiles, ahead, store),
            2 => panel::<F, T, 2>(&x, tiles, ahead, store),
            3 => panel::<F, T, 3>(&x, tiles, ahead, store),
            4 => panel::<F, T, 4>(&x, tiles, ahead, store),
            5 => panel::<F, T, 5>(&x, tiles, ahead, store),
            6 => panel::<F, T, 6>(&x, tiles, ahead, store),
            7 => panel::<F, T, 7>(&x, tiles, ahead, store),
            _ => panel::<F, T, 8>(&x, tiles, ahead, store),
        }
        ahead = 0;
    }
}

/// Superblocks for many rows of `x`: a few of each tile are unpacked, multiplied with all rows, and so on to the end of the tiles;
/// between, the sums wait in the scratch.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn slices<const F: u8, const T: usize>(
    x: &Activations,
    tiles: &[&[u8]; T],
    (lines, waiting): (&mut [Line], &mut [Line]),
    store: &Store,
) {
    let shape = const { shape(F) };
    let each = lines.len() / T;
    let chunks = tiles[0].len() / shape.chunk;
    for first in (0..chunks).step_by(SLICE) {
        let slice = first..chunks.min(first + SLICE);
        for (tile, lines) in tiles.iter().zip(lines.chunks_exact_mut(each)) {
            unpack::<F>(&tile[slice.start * shape.chunk..slice.end * shape.chunk], lines);
        }
        let mut parts = lines.chunks_exact(each);
        let parts: [&[Line]; T] = std::array::from_fn(|_| parts.next().expect("as many as tiles"));
        let part = &Part { units: slice.start * shape.units..slice.end * shape.units, of: chunks * shape.units };
        for x in x.panels() {
            let waiting = &mut waiting[T * x.row..T * (x.row + x.rows)];
            match x.rows {
                1 => unpacked::<F, T, 1>(&x, part, &parts, waiting, store),
                2 => unpacked::<F, T, 2>(&x, part, &parts, waiting, store),
                3 => unpacked::<F, T, 3>(&x, part, &parts, waiting, store),
                4 => unpacked::<F, T, 4>(&x, part, &parts, waiting, store),
                5 => unpacked::<F, T, 5>(&x, part, &parts, waiting, store),
                _ => unpacked::<F, T, 6>(&x, part, &parts, waiting, store),
            }
        }
    }
}

/// How many bytes after what is read the cache is asked for.
fn ahead(tiles: &[&[u8]]) -> usize {
    let bytes = tiles.first().map_or(0, |tile| tile.len());
    if bytes <= SHORT_BYTES { tiles.len() * bytes } else { AHEAD / tiles.len() }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn panel<const F: u8, const T: usize, const R: usize>(x: &Panel, tiles: &[&[u8]; T], ahead: usize, store: &Store) {
    let shape = const { shape(F) };
    let of_x = OfX::<R>::new(x);
    let chunks = of_x.fours.len() * GROUPS / (shape.units * shape.groups);
    // Every read below is inside a chunk, and there are so many.
    assert!(tiles.iter().all(|tile| tile.len() >= chunks * shape.chunk));
    let mut sums = [[_mm512_setzero_ps(); R]; T];
    for c in 0..chunks {
        // SAFETY: chunk `c` is inside each tile.
        let at = tiles.map(|tile| unsafe { tile.as_ptr().add(c * shape.chunk) });
        // Asked for a little at a time, so that few requests wait at once.
        let ask = |part: usize, parts: usize| {
            if ahead > 0 {
                let lines = lines_of::<F>();
                let some = part * lines / parts * 64..(part + 1) * lines / parts * 64;
                at.iter().for_each(|at| prefetch(at.wrapping_add(ahead + some.start), some.len(), F == Q8_0 && R == 1));
            }
        };
        if (F == Q4_K || F == Q5_K) && T * R <= WIDE {
            for pair in 0..shape.units / 2 {
                ask(pair, shape.units / 2);
                // SAFETY: both units of the pair; the processor has the instructions.
                unsafe { pair_of_units::<F, T, R>(&at, pair, c * shape.units + 2 * pair, &of_x, &mut sums) };
            }
            continue;
        }
        if F == Q6_K && R == 1 {
            for half in 0..2 {
                ask(half, 2);
                // SAFETY: the units of one half of the chunk; the processor has the instructions.
                unsafe { half_of_units::<F, T, R>(&at, half, c * shape.units + 8 * half, &of_x, &mut sums) };
            }
            continue;
        }
        if F == Q6_K {
            for half in 0..2 {
                let number = c * shape.units + 8 * half;
                // SAFETY: the units of one half of the chunk, run by run; the processor has the instructions.
                unsafe {
                    ask(4 * half, 8);
                    run_of_units::<F, T, R, 0>(&at, half, number, &of_x, &mut sums);
                    ask(4 * half + 1, 8);
                    run_of_units::<F, T, R, 1>(&at, half, number, &of_x, &mut sums);
                    ask(4 * half + 2, 8);
                    run_of_units::<F, T, R, 2>(&at, half, number, &of_x, &mut sums);
                    ask(4 * half + 3, 8);
                    run_of_units::<F, T, R, 3>(&at, half, number, &of_x, &mut sums);
                }
            }
            continue;
        }
        for u in 0..shape.units {
            ask(u, shape.units);
            // SAFETY: unit `u` of the chunk; the processor has the instructions.
            unsafe { unit::<F, T, R>(&at, u, c * shape.units + u, &of_x, &mut sums) };
        }
    }
    // SAFETY: the processor has the instructions.
    unsafe { store.put(x.row, &sums) };
}

/// Adds a unit's products to a tile's sums.
///
/// # Safety
/// The processor has AVX-512.
#[inline(always)]
unsafe fn add<const F: u8, const R: usize>(
    ints: &[__m512i; R],
    scale: __m512,
    minimum: __m512,
    d: &[f32; R],
    sum: &[f32; R],
    sums: &mut [__m512; R],
) {
    for r in 0..R {
        // SAFETY: the caller's promise.
        unsafe {
            let scale = _mm512_mul_ps(scale, _mm512_set1_ps(d[r]));
            sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(ints[r]), scale, sums[r]);
            if const { shape(F).has_minimum } {
                sums[r] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(sum[r]), sums[r]);
            }
        }
    }
}

/// Four columns of each tile's rows by four activations of each row of `x`.
///
/// # Safety
/// The processor has AVX-512 and VNNI.
#[inline(always)]
unsafe fn multiply<const T: usize, const R: usize>(
    weights: &[__m512i; T],
    fours: &[[i8; 4]; R],
    ints: &mut [[__m512i; R]; T],
) {
    for r in 0..R {
        let [a, b, c, d] = fours[r];
        // SAFETY: the caller's promise.
        unsafe {
            let four = _mm512_set1_epi32(i32::from_ne_bytes([a as u8, b as u8, c as u8, d as u8]));
            for t in 0..T {
                ints[t][r] = _mm512_dpbusd_epi32(ints[t][r], weights[t], four);
            }
        }
    }
}

/// # Safety
/// 64 bytes are there, and the processor has AVX-512.
#[inline(always)]
unsafe fn read(at: *const u8) -> __m512i {
    // SAFETY: the caller's promise.
    unsafe { _mm512_loadu_si512(at.cast()) }
}
