//! Keys and values of one layer on the device: the same bytes as on the CPU, in words. Writing them, in place.
//!
//! **Invariant:** a word of numbers is written by one unit. Where several positions share one, as keys in 16 or 8 bits do, that is the
//! unit of the first of them that is written now; the others keep what they had.

use super::bits::{half, signed, to_half, to_signed};
use super::places::PLACE;
use super::tensor::{count, cube_dim, element, elementwise, unwritten};
use crate::{BLOCK_TOKENS, KvFormat};
use burn::tensor::DType;
use burn_cubecl::cubecl;
use burn_cubecl::tensor::CubeTensor;
use cubecl::prelude::*;

/// Numbers in one word.
pub(super) const fn per_word(format: KvFormat) -> usize {
    match format {
        KvFormat::F32 => 1,
        KvFormat::F16 => 2,
        KvFormat::Q8 => 4,
    }
}

/// Words of one head's block: its numbers, then in 8 bits the scale of each position.
#[cube]
pub(super) fn block_words(dim: usize, #[comptime] format: KvFormat) -> usize {
    dim * comptime!(BLOCK_TOKENS / per_word(format)) + comptime!(if format == KvFormat::Q8 { BLOCK_TOKENS } else { 0 })
}

/// Number `at` of the block that begins at word `block`, before its scale.
#[cube]
pub(super) fn number_at(words: &[u32], block: usize, at: usize, #[comptime] format: KvFormat) -> f32 {
    let per = comptime!(per_word(format));
    let word = words[block + at / per];
    if comptime!(format == KvFormat::F32) {
        f32::from_bits(word)
    } else if comptime!(format == KvFormat::F16) {
        half((word >> (16 * (at as u32 % 2))) & 0xffff)
    } else {
        signed(word >> (8 * (at as u32 % 4)))
    }
}

/// The scale of position `slot` of a block in 8 bits; 1 otherwise.
#[cube]
pub(super) fn scale_at(words: &[u32], block: usize, dim: usize, slot: usize, #[comptime] format: KvFormat) -> f32 {
    if comptime!(format == KvFormat::Q8) {
        f32::from_bits(words[block + dim * comptime!(BLOCK_TOKENS / 4) + slot])
    } else {
        1f32.runtime()
    }
}

/// By what a row is divided to have ±127 at most. What is no number makes it none.
#[cube(launch)]
fn scales_kernel(x: &[f32], out: &mut [f32], heads: u32, dim: u32) {
    let (at, dim) = (element(), dim as usize);
    if at < heads as usize {
        // Magnitudes are ordered as their bits are, and what is no number is beyond all.
        let mut largest = 0u32;
        for i in 0..dim {
            largest = max(largest, x[at * dim + i].to_bits() & 0x7fff_ffff);
        }
        let finite = select(largest == 0x7f80_0000u32, 0x7f7f_ffffu32, largest);
        out[at] = f32::from_bits(finite) / 127.0;
    }
}

fn scales(x: &CubeTensor, heads: usize, dim: usize) -> CubeTensor {
    let out = unwritten(x, &[heads], DType::F32);
    scales_kernel::launch(
        &out.client,
        elementwise(heads),
        cube_dim(),
        x.clone().into_buffer_arg(),
        out.clone().into_buffer_arg(),
        count(heads),
        count(dim),
    );
    out
}

#[cube]
fn narrowed(x: f32, scale: f32, #[comptime] format: KvFormat) -> u32 {
    if comptime!(format == KvFormat::F32) {
        x.to_bits()
    } else if comptime!(format == KvFormat::F16) {
        to_half(x)
    } else {
        let inverse = select(scale > 0.0, 1.0 / scale, 0.0);
        to_signed(min(max(x * inverse, -127.0), 127.0))
    }
}

/// `word` with its number `lane` replaced by `bits`.
#[cube]
fn put(word: u32, lane: u32, bits: u32, #[comptime] format: KvFormat) -> u32 {
    if comptime!(format == KvFormat::F32) {
        bits
    } else {
        let width = comptime!(32 / per_word(format) as u32);
        let shift = lane * width;
        (word & !(comptime!((1u32 << width) - 1) << shift)) | (bits << shift)
    }
}

#[cube(launch)]
fn write_kernel(
    k: &[f32],
    v: &[f32],
    k_scales: &[f32],
    v_scales: &[f32],
    places: &[u32],
    keys: &mut [u32],
    values: &mut [u32],
    elements: u32,
    kv_heads: u32,
    dim: u32,
    #[comptime] format: KvFormat,
) {
    let (at, heads, dim) = (element(), kv_heads as usize, dim as usize);
    if at >= elements as usize {
        terminate!();
    }
    let per = comptime!(per_word(format));
    let (i, head, row) = (at % dim, at / dim % heads, at / dim / heads);
    let place = row * PLACE;
    let length = places[place] as usize;
    if length == 0 {
        terminate!();
    }
    let position = length - 1;
    let (before, from_it) = (places[place + 2] as usize, places[place + 3] as usize);
    let slot = position % BLOCK_TOKENS;
    let table = places[place + 1] as usize;
    let block = (places[table + position / BLOCK_TOKENS] as usize * heads + head) * block_words(dim, format);
    let lane = position % per;
    if lane == 0 || before == 0 {
        let word = block + (i * BLOCK_TOKENS + slot) / per;
        let mut packed = keys[word];
        #[unroll]
        for j in 0..per {
            if lane + j < per && j < from_it {
                let scale = k_scales[(row + j) * heads + head];
                let bits = narrowed(k[at + j * heads * dim], scale, format);
                packed = put(packed, (lane + j) as u32, bits, format);
            }
        }
        keys[word] = packed;
    }
    if i % per == 0 {
        let scale = v_scales[row * heads + head];
        let mut packed = 0u32;
        #[unroll]
        for j in 0..per {
            packed = put(packed, comptime!(j as u32).runtime(), narrowed(v[at + j], scale, format), format);
        }
        values[block + (slot * dim + i) / per] = packed;
    }
    if comptime!(format == KvFormat::Q8) {
        let scale = block + dim * (BLOCK_TOKENS / 4) + slot;
        // Each of the head's units writes the same.
        keys[scale] = k_scales[row * heads + head].to_bits();
        values[scale] = v_scales[row * heads + head].to_bits();
    }
}

/// Writes `k, v [rows, kv heads, dim]`, whole, at their places.
pub(super) fn write([k, v]: [&CubeTensor; 2], [keys, values]: [&CubeTensor; 2], places: &CubeTensor, format: KvFormat) {
    let (rows, heads, dim) = (k.meta.shape()[0], k.meta.shape()[1], k.meta.shape()[2]);
    assert!(dim.is_multiple_of(per_word(format)), "a head of {dim} is no whole words in {format:?}");
    let scales = |x: &CubeTensor| if format == KvFormat::Q8 { scales(x, rows * heads, dim) } else { x.clone() };
    write_kernel::launch(
        &k.client,
        elementwise(rows * heads * dim),
        cube_dim(),
        k.clone().into_buffer_arg(),
        v.clone().into_buffer_arg(),
        scales(k).into_buffer_arg(),
        scales(v).into_buffer_arg(),
        places.clone().into_buffer_arg(),
        keys.clone().into_buffer_arg(),
        values.clone().into_buffer_arg(),
        count(rows * heads * dim),
        count(heads),
        count(dim),
        format,
    );
}
