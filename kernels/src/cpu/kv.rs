//! Keys and values of one layer in blocks: where a position is, and writing it.
//!
//! Within a block, keys are stored element by element (`[head_dim, block_tokens]`) and values
//! position by position (`[block_tokens, head_dim]`), because that is how attention reads them:
//! one query element meets 32 keys, one probability meets all elements of a value.

use super::vector::Vector;
use crate::{BLOCK_TOKENS, Segment};
use half::f16;
use half::slice::HalfFloatSliceExt;

/// A number that keys and values are kept in.
pub(crate) trait Element: Copy + Default + Send + Sync + 'static {
    /// Rounds `from` into `into`.
    fn narrow(from: &[f32], into: &mut [Self]);
    /// It as f32.
    fn widen(self) -> f32;
    /// The first elements of `from` as f32.
    fn load<V: Vector>(from: &[Self]) -> V;
}

impl Element for f32 {
    fn narrow(from: &[f32], into: &mut [Self]) {
        into.copy_from_slice(from);
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
    #[inline(always)]
    fn load<V: Vector>(from: &[Self]) -> V {
        V::load(from)
    }
}

impl Element for f16 {
    /// What is beyond its range becomes the end of it: an infinity times a weight of 0 would be no number.
    fn narrow(from: &[f32], into: &mut [Self]) {
        const AT_ONCE: usize = 64;
        let mut within = [0.0; AT_ONCE];
        for (from, into) in from.chunks(AT_ONCE).zip(into.chunks_mut(AT_ONCE)) {
            let within = &mut within[..from.len()];
            for (within, from) in within.iter_mut().zip(from) {
                *within = from.clamp(f16::MIN.to_f32(), f16::MAX.to_f32());
            }
            into.convert_from_f32_slice(within);
        }
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        self.to_f32()
    }
    #[inline(always)]
    fn load<V: Vector>(from: &[Self]) -> V {
        V::load_halves(from)
    }
}

/// Sizes that all sequences of a layer share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    /// Query heads, a multiple of `kv`.
    pub query: usize,
    pub kv: usize,
    pub dim: usize,
}

impl Heads {
    /// Elements of one head in one block.
    pub fn block_elements(&self) -> usize {
        self.dim * BLOCK_TOKENS
    }

    /// Where block `block` of head `kv_head` begins.
    pub fn block_start(&self, block: u32, kv_head: usize) -> usize {
        (block as usize * self.kv + kv_head) * self.block_elements()
    }
}

/// Writes the rows of all segments, `k, v [rows, kv heads, dim]`, at their positions.
pub(crate) fn write<T: Element>(
    (k, v): (&[f32], &[f32]),
    (keys, values): (&mut [T], &mut [T]),
    heads: Heads,
    segments: &[Segment],
) {
    let mut narrowed = vec![T::default(); heads.dim];
    for segment in segments {
        for i in 0..segment.rows {
            let position = segment.position + i;
            let (block, slot) = (position / BLOCK_TOKENS, position % BLOCK_TOKENS);
            for head in 0..heads.kv {
                let row = ((segment.row + i) * heads.kv + head) * heads.dim;
                let block = heads.block_start(segment.blocks[block], head);
                T::narrow(&k[row..][..heads.dim], &mut narrowed);
                let keys = &mut keys[block..][..heads.block_elements()];
                for (keys, k) in keys.chunks_exact_mut(BLOCK_TOKENS).zip(&narrowed) {
                    keys[slot] = *k;
                }
                let value = &mut values[block + slot * heads.dim..][..heads.dim];
                T::narrow(&v[row..][..heads.dim], value);
            }
        }
    }
}
