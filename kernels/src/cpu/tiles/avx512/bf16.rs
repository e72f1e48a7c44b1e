//! Weights in bfloat16: two columns at a time, summed in float32.

use super::{Store, TILES_BF16, ahead, prefetch, read, reads_alone};
use crate::cpu::activations::Pairs;
use crate::cpu::shared::Shared;
use crate::cpu::weight::Weight;
use crate::packing::TILE_ROWS;
use std::arch::x86_64::*;
use std::mem::transmute;
use std::ops::Range;

/// Writes the outputs of the tiles `tiles` for every row of `x`; weights in bfloat16.
///
/// # Safety
/// The processor has the instructions.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
pub(in crate::cpu) unsafe fn bf16(x: &Pairs, w: &Weight, tiles: Range<usize>, out: &Shared<f32>) {
    let mut tile = tiles.start;
    let alone = reads_alone(x.rows());
    while tile < tiles.end {
        let store = Store { out, n: w.n(), column: tile * TILE_ROWS };
        if tile + TILES_BF16 <= tiles.end && !alone {
            let bytes: [&[u8]; TILES_BF16] = std::array::from_fn(|i| w.tile(tile + i));
            bf16_panels(x, &bytes, &store);
            tile += TILES_BF16;
        } else {
            bf16_panels(x, &[w.tile(tile)], &store);
            tile += 1;
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
fn bf16_panels<const T: usize>(x: &Pairs, tiles: &[&[u8]; T], store: &Store) {
    let mut ahead = ahead(tiles);
    for (row, rows, pairs) in x.panels() {
        match rows {
            1 => bf16_panel::<T, 1>(row, pairs, tiles, ahead, store),
            2 => bf16_panel::<T, 2>(row, pairs, tiles, ahead, store),
            3 => bf16_panel::<T, 3>(row, pairs, tiles, ahead, store),
            4 => bf16_panel::<T, 4>(row, pairs, tiles, ahead, store),
            5 => bf16_panel::<T, 5>(row, pairs, tiles, ahead, store),
            6 => bf16_panel::<T, 6>(row, pairs, tiles, ahead, store),
            7 => bf16_panel::<T, 7>(row, pairs, tiles, ahead, store),
            _ => bf16_panel::<T, 8>(row, pairs, tiles, ahead, store),
        }
        // Later panels find the tiles in the cache.
        ahead = 0;
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma,f16c")]
fn bf16_panel<const T: usize, const R: usize>(
    row: usize,
    pairs: &[u32],
    tiles: &[&[u8]; T],
    ahead: usize,
    store: &Store,
) {
    let pairs = pairs.as_chunks::<R>().0;
    assert!(tiles.iter().all(|tile| tile.len() >= pairs.len() * 64));
    let mut sums = [[_mm512_setzero_ps(); R]; T];
    for (c, pairs) in pairs.iter().enumerate() {
        let mut weights = [_mm512_setzero_si512(); T];
        for t in 0..T {
            if ahead > 0 {
                prefetch(tiles[t].as_ptr().wrapping_add(c * 64 + ahead), 64, R == 1);
            }
            // SAFETY: vector `c` is inside the tile, as was just checked; the processor has the instructions.
            weights[t] = unsafe { read(tiles[t].as_ptr().add(c * 64)) };
        }
        for r in 0..R {
            let pair = _mm512_set1_epi32(pairs[r] as i32);
            for t in 0..T {
                // SAFETY: both are 64 bytes of any bits.
                let (w, x) =
                    unsafe { (transmute::<__m512i, __m512bh>(weights[t]), transmute::<__m512i, __m512bh>(pair)) };
                sums[t][r] = _mm512_dpbf16_ps(sums[t][r], w, x);
            }
        }
    }
    // SAFETY: the processor has the instructions.
    unsafe { store.put(row, &sums) };
}
