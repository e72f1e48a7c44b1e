//! Keys and values of one layer in blocks: where a position is, and writing it.
//!
//! Within a block, keys are stored element by element (`[head_dim, block_tokens]`) and values
//! position by position (`[block_tokens, head_dim]`), because that is how attention reads them:
//! one query element meets 32 keys, one probability meets all elements of a value.

use super::dispatch::On;
use super::shared::Shared;
use super::vector::{Vector, vectored, within_halves};
use crate::{BLOCK_TOKENS, Segment};
use half::f16;

/// A number that keys and values are kept in.
pub(crate) trait Element: Copy + Default + Send + Sync + 'static {
    /// Elements behind a head's block in which the scales of its positions are; 0: it has none.
    const SCALES: usize = 0;
    /// Rounds the row `from` into `into` and gives its scale.
    fn narrow<V: Vector>(from: &[f32], into: &mut [Self]) -> f32;
    /// It as f32.
    fn widen(self) -> f32;
    /// The first elements of `from` as f32.
    fn load<V: Vector>(from: &[Self]) -> V;
    /// Notes the scale of position `slot`, where there are scales.
    fn put_scale(_scales: &mut [Self], _slot: usize, _scale: f32) {}
    /// The scales of a block's positions.
    fn scales(_scales: &[Self]) -> [f32; BLOCK_TOKENS] {
        [1.0; BLOCK_TOKENS]
    }
}

impl Element for f32 {
    #[inline(always)]
    fn narrow<V: Vector>(from: &[f32], into: &mut [Self]) -> f32 {
        into.copy_from_slice(from);
        1.0
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
    #[inline(always)]
    fn narrow<V: Vector>(from: &[f32], into: &mut [Self]) -> f32 {
        let whole = from.len().min(into.len()) / V::LANES * V::LANES;
        for (from, into) in from[..whole].chunks_exact(V::LANES).zip(into.chunks_exact_mut(V::LANES)) {
            V::load(from).store_halves(into);
        }
        for (from, into) in from[whole..].iter().zip(&mut into[whole..]) {
            *into = f16::from_f32(within_halves(*from));
        }
        1.0
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

impl Element for i8 {
    const SCALES: usize = BLOCK_TOKENS * size_of::<f32>();

    /// The largest becomes 127 or -127. What is no number stays none: the scale is.
    #[inline(always)]
    fn narrow<V: Vector>(from: &[f32], into: &mut [Self]) -> f32 {
        let largest = from.iter().fold(0f32, |most, x| most.max(x.abs())).min(f32::MAX);
        let largest = if from.iter().any(|x| x.is_nan()) { f32::NAN } else { largest };
        let scale = largest / 127.0;
        let inverse = if scale > 0.0 { scale.recip().min(f32::MAX) } else { 0.0 };
        for (into, from) in into.iter_mut().zip(from) {
            // Saturates, and makes 0 of what is no number.
            *into = (from * inverse).round_ties_even() as i8;
        }
        scale
    }
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from(self)
    }
    #[inline(always)]
    fn load<V: Vector>(from: &[Self]) -> V {
        V::load_bytes(from)
    }
    fn put_scale(scales: &mut [Self], slot: usize, scale: f32) {
        let place = &mut scales.as_chunks_mut::<{ size_of::<f32>() }>().0[slot];
        *place = scale.to_ne_bytes().map(|byte| byte as i8);
    }
    #[inline(always)]
    fn scales(scales: &[Self]) -> [f32; BLOCK_TOKENS] {
        let mut out = [0.0; BLOCK_TOKENS];
        for (out, bytes) in out.iter_mut().zip(scales.as_chunks::<{ size_of::<f32>() }>().0) {
            *out = f32::from_ne_bytes(bytes.map(|byte| byte as u8));
        }
        out
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
    /// Query heads that read the keys of one head.
    pub fn group(&self) -> usize {
        self.query / self.kv
    }

    /// Elements of one head in one block, scales left out.
    pub fn block_elements(&self) -> usize {
        self.dim * BLOCK_TOKENS
    }

    /// Where block `block` of head `kv_head` begins.
    pub fn block_start<T: Element>(&self, block: u32, kv_head: usize) -> usize {
        (block as usize * self.kv + kv_head) * (self.block_elements() + T::SCALES)
    }
}

/// Elements of keys from which on several threads write them.
const ELEMENTS_ALONE: usize = 1024;
/// Elements of a head that are narrowed without asking the allocator.
const NARROWED: usize = 512;

/// Writes the rows of all segments, `k, v [rows, kv heads, dim]`, at their positions.
pub(crate) fn write<T: Element>(
    on: On,
    (k, v): (&[f32], &[f32]),
    (keys, values): (&mut [T], &mut [T]),
    heads: Heads,
    segments: &[Segment],
) {
    let (keys, values) = (Shared::new(keys), Shared::new(values));
    if k.len() <= ELEMENTS_ALONE {
        (0..heads.kv).for_each(|head| write_head(on.level, (k, v), (&keys, &values), heads, head, segments));
    } else {
        on.pool.run(heads.kv, &|head| write_head(on.level, (k, v), (&keys, &values), heads, head, segments));
    }
}

vectored! {
    fn write_head<T: Element>(
        rows: (&[f32], &[f32]),
        cache: (&Shared<T>, &Shared<T>),
        heads: Heads,
        head: usize,
        segments: &[Segment],
    ) = write_head_with
}

#[inline(always)]
fn write_head_with<V: Vector, const N: usize, const Q: usize, T: Element>(
    (k, v): (&[f32], &[f32]),
    (keys, values): (&Shared<T>, &Shared<T>),
    heads: Heads,
    head: usize,
    segments: &[Segment],
) {
    let mut some = [T::default(); NARROWED];
    let mut many = Vec::new();
    let narrowed = match some.get_mut(..heads.dim) {
        Some(some) => some,
        None => {
            many.resize(heads.dim, T::default());
            &mut many[..]
        }
    };
    for segment in segments {
        for i in 0..segment.rows {
            let position = segment.position + i;
            let (block, slot) = (position / BLOCK_TOKENS, position % BLOCK_TOKENS);
            let row = ((segment.row + i) * heads.kv + head) * heads.dim;
            let block = heads.block_start::<T>(segment.blocks[block], head);
            let range = block..block + heads.block_elements() + T::SCALES;
            let scale = T::narrow::<V>(&k[row..][..heads.dim], narrowed);
            // SAFETY: no other call has this head.
            let (keys, values) = unsafe { (keys.part(range.clone()), values.part(range)) };
            let (keys, scales) = keys.split_at_mut(heads.block_elements());
            for (keys, k) in keys.as_chunks_mut::<BLOCK_TOKENS>().0.iter_mut().zip(narrowed.iter()) {
                keys[slot] = *k;
            }
            T::put_scale(scales, slot, scale);
            let (values, scales) = values.split_at_mut(heads.block_elements());
            let scale = T::narrow::<V>(&v[row..][..heads.dim], &mut values[slot * heads.dim..][..heads.dim]);
            T::put_scale(scales, slot, scale);
        }
    }
}
