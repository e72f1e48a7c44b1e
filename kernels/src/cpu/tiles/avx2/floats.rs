//! Weights in bfloat16, widened and multiplied in float32: two columns of eight rows are a vector, and a column of it a shift away.

use super::{AHEAD, HALVES, Store, prefetch, read};
use crate::cpu::shared::Shared;
use crate::cpu::weight::Weight;
use crate::packing::TILE_ROWS;
use std::arch::x86_64::*;
use std::ops::Range;

/// Most rows of `x` that are worked on together: with both halves of a tile their sums take ten of the sixteen registers.
const ROWS: usize = 5;
/// Tiles that one row of `x` is multiplied with at once: with fewer sums each addition would wait for the one before it.
const TILES_OF_ONE: usize = 2;

/// Writes the outputs of the tiles `tiles` for every row of `x`.
///
/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::cpu) unsafe fn bf16(x: &[f32], w: &Weight, tiles: Range<usize>, out: &Shared<f32>) {
    let (k, n) = (w.k(), w.n());
    let rows = x.len() / k;
    let width = rows.div_ceil(rows.div_ceil(ROWS).max(1)).max(1);
    let store = |tile: usize| Store { out, n, column: tile * TILE_ROWS };
    // A panel's rows stay in the cache while all tiles pass.
    for (panel, x) in x.chunks(width * k).enumerate() {
        let row = panel * width;
        let mut tile = tiles.start;
        while tile < tiles.end {
            if x.len() == k && tile + TILES_OF_ONE <= tiles.end {
                let sums = products::<TILES_OF_ONE, 1>(x, std::array::from_fn(|i| w.tile(tile + i)));
                (0..TILES_OF_ONE).for_each(|i| store(tile + i).put(row, &sums[i]));
                tile += TILES_OF_ONE;
                continue;
            }
            match x.len() / k {
                1 => store(tile).put(row, &products::<1, 1>(x, [w.tile(tile)])[0]),
                2 => store(tile).put(row, &products::<1, 2>(x, [w.tile(tile)])[0]),
                3 => store(tile).put(row, &products::<1, 3>(x, [w.tile(tile)])[0]),
                4 => store(tile).put(row, &products::<1, 4>(x, [w.tile(tile)])[0]),
                _ => store(tile).put(row, &products::<1, 5>(x, [w.tile(tile)])[0]),
            }
            tile += 1;
        }
    }
}

/// `R` rows of `x` with `T` tiles, column after column.
#[allow(clippy::needless_range_loop)] // several arrays share an index
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn products<const T: usize, const R: usize>(x: &[f32], tiles: [&[u8]; T]) -> [[[__m256; R]; HALVES]; T] {
    let k = x.len() / R;
    assert!(x.len() == R * k && tiles.iter().all(|tile| tile.len() >= k / 2 * 64));
    let upper = _mm256_set1_epi32(0xffff_0000_u32 as i32);
    let mut sums = [[[_mm256_setzero_ps(); R]; HALVES]; T];
    for pair in 0..k / 2 {
        let mut columns = [[[_mm256_setzero_ps(); HALVES]; T]; 2];
        for t in 0..T {
            prefetch(tiles[t].as_ptr().wrapping_add(AHEAD + 64 * pair), 64, R == 1);
            for h in 0..HALVES {
                // SAFETY: vector `pair` is inside the tile, as was just checked.
                let two = unsafe { read(tiles[t].as_ptr().add(64 * pair + 32 * h)) };
                columns[0][t][h] = _mm256_castsi256_ps(_mm256_slli_epi32::<16>(two));
                columns[1][t][h] = _mm256_castsi256_ps(_mm256_and_si256(two, upper));
            }
        }
        for (c, weights) in columns.iter().enumerate() {
            for r in 0..R {
                // SAFETY: row `r` has `k` columns, as was checked.
                let x = _mm256_set1_ps(unsafe { *x.get_unchecked(r * k + 2 * pair + c) });
                for t in 0..T {
                    for h in 0..HALVES {
                        sums[t][h][r] = _mm256_fmadd_ps(x, weights[t][h], sums[t][h][r]);
                    }
                }
            }
        }
    }
    sums
}
