//! Stored weights as a kernel reads them: four elements at a time, whatever their format.

use super::bits::{Quad, half_at, sixteen};
use super::blocks::quad_of_block;
use super::superblocks::quad_of_superblock;
use crate::Format;
use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// Elements `4 · quad` on of row `row` of a matrix `[_, k]`; behind the row's end they are 0.
#[cube]
pub(super) fn quad_of(words: &[u32], row: usize, quad: usize, k: usize, #[comptime] format: Format) -> Quad {
    let elements = comptime!(format.block_elements());
    let start = row * (k / elements) * comptime!(format.block_bytes());
    if comptime!(elements == 1) {
        quad_of_floats(words, start, quad, k, format)
    } else if comptime!(elements == 32) {
        quad_of_block(words, start, quad, format)
    } else {
        quad_of_superblock(words, start, quad, format)
    }
}

#[cube]
fn quad_of_floats(words: &[u32], start: usize, quad: usize, k: usize, #[comptime] format: Format) -> Quad {
    let mut out = Quad::empty();
    #[unroll]
    for i in 0..4usize {
        let at = quad * 4 + i;
        // The last of the row instead of what is behind it.
        let inside = min(at, k - 1);
        let value = float_at(words, start + inside * comptime!(format.block_bytes()), format);
        out.insert(i, select(at < k, value, 0.0));
    }
    out
}

#[cube]
fn float_at(words: &[u32], at: usize, #[comptime] format: Format) -> f32 {
    if comptime!(format == Format::F32) {
        f32::from_bits(words[at / 4])
    } else if comptime!(format == Format::BF16) {
        f32::from_bits(sixteen(words, at) << 16)
    } else {
        half_at(words, at)
    }
}
