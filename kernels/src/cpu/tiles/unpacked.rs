//! Superblocks unpacked into the scratch once for many rows of `x`.

use super::units::{integers, scales};
use super::{OfX, Q6_K, Store, add, multiply, prefetch, read, shape};
use crate::cpu::activations::{GROUPS, Panel};
use crate::cpu::scratch::Line;
use std::arch::x86_64::*;

/// Writes a tile to `lines`: of each unit its scale, its minimum, its integers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) fn unpack<const F: u8>(tile: &[u8], ahead: usize, lines: &mut [Line]) {
    let shape = const { shape(F) };
    let chunks = lines.chunks_exact_mut(shape.units * shape.unpacked());
    for (bytes, lines) in tile.chunks_exact(shape.chunk).zip(chunks) {
        prefetch(bytes.as_ptr().wrapping_add(ahead), shape.chunk);
        for (u, lines) in lines.chunks_exact_mut(shape.unpacked()).enumerate() {
            // SAFETY: `bytes` is a chunk, and the processor has the instructions.
            unsafe {
                let (scale, minimum) = scales::<F>(bytes.as_ptr(), u);
                save(&mut lines[0], _mm512_castps_si512(scale));
                save(&mut lines[1], _mm512_castps_si512(minimum));
                for (g, line) in lines[2..].iter_mut().enumerate() {
                    save(line, integers::<F>(bytes.as_ptr().add(shape.header), u, g));
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn save(line: &mut Line, value: __m512i) {
    // SAFETY: 64 bytes, aligned to 64.
    unsafe { _mm512_store_si512(line.0.as_mut_ptr().cast(), value) }
}

/// [`panel`] over tiles that are unpacked; the same arithmetic.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn unpacked<const F: u8, const T: usize, const R: usize>(x: &Panel, tiles: &[&[Line]; T], store: &Store) {
    let shape = const { shape(F) };
    let of_x = OfX::<R>::new(x);
    let units = of_x.fours.len() * GROUPS / shape.groups;
    assert!(tiles.iter().all(|tile| tile.len() >= units * shape.unpacked()));
    let mut sums = [[_mm512_setzero_ps(); R]; T];
    for number in 0..units {
        let (block, first) = (number * shape.groups / GROUPS, number * shape.groups % GROUPS);
        // SAFETY: the lines of unit `number` are inside each tile, and the processor has the instructions.
        unsafe {
            let at = tiles.map(|tile| tile.as_ptr().add(number * shape.unpacked()).cast::<u8>());
            let mut ints = [[_mm512_setzero_si512(); R]; T];
            if F == Q6_K {
                for r in 0..R {
                    let start = _mm512_set1_epi32(of_x.start[number][r]);
                    for ints in &mut ints {
                        ints[r] = start;
                    }
                }
            }
            for g in 0..shape.groups {
                let mut weights = [_mm512_setzero_si512(); T];
                for t in 0..T {
                    weights[t] = read(at[t].add(64 * (2 + g)));
                }
                multiply(&weights, &of_x.fours[block][first + g], &mut ints);
            }
            for t in 0..T {
                let (scale, minimum) = (_mm512_castsi512_ps(read(at[t])), _mm512_castsi512_ps(read(at[t].add(64))));
                add::<F, R>(&ints[t], scale, minimum, &of_x.d[block], &of_x.sum[block], &mut sums[t]);
            }
        }
    }
    store.put(x.row, &sums);
}
