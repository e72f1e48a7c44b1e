//! Causal grouped-query attention over keys and values in blocks, in one pass: the softmax is kept up to date from tile to tile
//! (Milakov & Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135).
//!
//! A plane has one head of one row. In a tile of as many positions as it has units each unit makes one position's score; then
//! each unit adds up its elements of the values. **Invariant:** tiles begin at multiples of their size and are taken in order,
//! so on one device a row's bits depend on its own sequence alone. **Absent:** sharing a long sequence among planes, and matrix
//! units.

use super::elementwise::rotate;
use super::kv::{block_words, number_at, scale_at, write};
use super::places::{PLACE, places};
use super::tensor::{
    count, cube_dim, first_task, most_of_plane, of_unit, planes, planes_at_work, sum_of_plane, unwritten, uploaded,
    whole,
};
use crate::{BLOCK_TOKENS, KvFormat, Scores, Segment};
use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Below every score there is.
const LEAST: f32 = -3.0e38;

#[cube(launch)]
fn attention_kernel(
    q: &[f32],
    keys: &[u32],
    values: &[u32],
    places: &[u32],
    out: &mut [f32],
    tasks: u32,
    heads: u32,
    kv_heads: u32,
    dim: u32,
    scale: f32,
    window: u32,
    #[comptime] format: KvFormat,
    #[comptime] parts: usize,
) {
    let (heads, kv_heads, dim, units) = (heads as usize, kv_heads as usize, dim as usize, PLANE_DIM as usize);
    let (unit, words) = (UNIT_POS_PLANE as usize, block_words(dim, format));
    let mut task = first_task();
    while task < tasks as usize {
        let place = task / heads * PLACE;
        let (length, table) = (places[place] as usize, places[place + 1] as usize);
        let first = if window > 0 && length > window as usize { length - window as usize } else { 0usize.runtime() };
        let kv_head = task % heads / (heads / kv_heads);
        let mut sums = Array::<f32>::new(parts);
        #[unroll]
        for part in 0..parts {
            sums[part] = 0.0;
        }
        let mut most = LEAST.runtime();
        let mut total = 0f32;
        let mut tile = first / units * units;
        while tile < length {
            let position = tile + unit;
            let mut score = LEAST.runtime();
            let mut value_scale = 0f32;
            let seen = position >= first && position < length;
            if seen {
                let slot = position % BLOCK_TOKENS;
                let block = (places[table + position / BLOCK_TOKENS] as usize * kv_heads + kv_head) * words;
                let mut dot = 0f32;
                for i in 0..dim {
                    dot = fma(q[task * dim + i], number_at(keys, block, i * BLOCK_TOKENS + slot, format), dot);
                }
                score = dot * scale * scale_at(keys, block, dim, slot, format);
                value_scale = scale_at(values, block, dim, slot, format);
            }
            let highest = max(most, most_of_plane(score));
            let weight = select(seen, (score - highest).exp(), 0.0);
            let fade = (most - highest).exp();
            total = total * fade + sum_of_plane(weight);
            #[unroll]
            for part in 0..parts {
                sums[part] *= fade;
            }
            let scaled = weight * value_scale;
            for other in 0..units {
                let weight = of_unit(scaled, other);
                let position = tile + other;
                if position >= first && position < length {
                    let slot = position % BLOCK_TOKENS;
                    let block = (places[table + position / BLOCK_TOKENS] as usize * kv_heads + kv_head) * words;
                    #[unroll]
                    for part in 0..parts {
                        let i = part * units + unit;
                        if i < dim {
                            sums[part] = fma(weight, number_at(values, block, slot * dim + i, format), sums[part]);
                        }
                    }
                }
            }
            most = highest;
            tile += units;
        }
        #[unroll]
        for part in 0..parts {
            let i = part * units + unit;
            if i < dim {
                out[task * dim + i] = select(length == 0, 0.0, sums[part] / total);
            }
        }
        task += planes_at_work();
    }
}

/// Turned queries and keys, and where their rows belong.
pub(super) struct Rows {
    /// `[rows, heads, dim]`, yet to be turned.
    pub q: CubeTensor,
    /// `[rows, kv heads, dim]`, yet to be turned.
    pub k: CubeTensor,
    /// `[rows, kv heads, dim]`
    pub v: CubeTensor,
    /// Cosines and sines, `[rows, pairs]`.
    pub turns: [CubeTensor; 2],
}

/// See [`crate::attention`]: writes keys and values in place and gives `[rows, heads, dim]`.
pub(super) fn attention(
    rows: Rows,
    [keys, values]: [&CubeTensor; 2],
    format: KvFormat,
    segments: &[Segment],
    scores: Scores,
) -> CubeTensor {
    let Rows { q, k, v, turns: [cos, sin] } = rows;
    let shape: Vec<usize> = q.meta.shape().to_vec();
    let (count_of_rows, heads, dim, kv_heads) = (shape[0], shape[1], shape[2], k.meta.shape()[1]);
    let out = unwritten(&q, &shape, DType::F32);
    if shape.contains(&0) {
        return out;
    }
    let q = rotate(q, cos.clone(), sin.clone());
    let (k, v) = (rotate(k, cos, sin), whole(v));
    let places = uploaded(&q, &places(count_of_rows, segments));
    write([&k, &v], [keys, values], &places, format);
    let tasks = count_of_rows * heads;
    let least_units = q.client.properties().hardware.plane_size_min.max(1) as usize;
    attention_kernel::launch(
        &out.client,
        planes(&q, tasks, 1),
        cube_dim(),
        q.into_buffer_arg(),
        keys.clone().into_buffer_arg(),
        values.clone().into_buffer_arg(),
        places.into_buffer_arg(),
        out.clone().into_buffer_arg(),
        count(tasks),
        count(heads),
        count(kv_heads),
        count(dim),
        scores.scale,
        // A window of nothing is none: it would leave no position to see.
        scores.window.map_or(0, count),
        format,
        dim.div_ceil(least_units),
    );
    out
}
