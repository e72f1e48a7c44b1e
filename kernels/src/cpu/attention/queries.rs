//! A few queries of each head of a task: their scores against a span of keys, and its values weighed by them.

use super::values::weigh_values;
use super::{Input, SPAN, Task, start_of};
use crate::BLOCK_TOKENS;
use crate::cpu::kv::Element;
use crate::cpu::vector::Vector;
use std::ops::Range;

/// Queries of some rows, as many for each head of a task.
pub(super) struct Queries<'a, T, const Q: usize> {
    input: &'a Input<'a, T>,
    task: &'a Task,
    /// `[head, dim, query]`, scaled
    q: &'a [[f32; Q]],
    /// The first position that each query sees.
    firsts: [usize; Q],
    /// One more than the last.
    lengths: [usize; Q],
}

#[allow(clippy::needless_range_loop)] // several arrays share the index of a query
impl<'a, T: Element, const Q: usize> Queries<'a, T, Q> {
    /// The queries of a task's tile `tile`, of which `q` is what [`Queries::scale`] made. Where there are not enough of them, the last is
    /// computed several times.
    #[inline(always)]
    pub fn new(input: &'a Input<'a, T>, task: &'a Task, tile: usize, q: &'a [f32]) -> Self {
        let (mut firsts, mut lengths) = ([0; Q], [0; Q]);
        for i in 0..Q {
            let row = Self::number(input, task, tile, i) / input.heads.group();
            let position = input.segments[task.segment].position + task.rows.start + row;
            lengths[i] = position + 1;
            firsts[i] = input.scoring.first_seen(position);
        }
        Self { input, task, q: q.as_chunks().0, firsts, lengths }
    }

    /// Of a task's tile `tile` the queries times the scale, so that it is not done to every score: `q [head, dim, query]`.
    #[inline(always)]
    pub fn scale(input: &Input<T>, task: &Task, tile: usize, q: &mut [f32]) {
        let dim = input.heads.dim;
        for (head, q) in q.as_chunks_mut::<Q>().0.chunks_exact_mut(dim).enumerate() {
            let mut queries: [&[f32]; Q] = [&[]; Q];
            for i in 0..Q {
                let start = start_of(input, task, head, Self::number(input, task, tile, i));
                queries[i] = &input.q[start..][..dim];
            }
            // All queries of an element, not all elements of a query: the compiler would scatter those, which is slow.
            for (at, to) in q.iter_mut().enumerate() {
                for i in 0..Q {
                    to[i] = queries[i][at] * input.scoring.scale;
                }
            }
        }
    }

    /// Which of a task's queries of a head is a tile's `i`-th.
    fn number(input: &Input<T>, task: &Task, tile: usize, i: usize) -> usize {
        (tile * Q + i).min(task.rows.len() * input.heads.group() - 1)
    }

    /// What each query sees of a span, counted from its beginning.
    pub fn seen(&self, span: usize) -> [Range<usize>; Q] {
        let within = |position: usize| position.saturating_sub(span * SPAN).min(SPAN);
        std::array::from_fn(|i| within(self.firsts[i])..within(self.lengths[i]))
    }

    /// Blocks of a span that hold what any of the queries sees.
    fn blocks(&self, span: usize) -> Range<usize> {
        let (from, to) = (span * SPAN, (span + 1) * SPAN);
        let longest = self.lengths.into_iter().max().unwrap_or(0).clamp(from, to);
        self.firsts.into_iter().min().unwrap_or(0).clamp(from, to) / BLOCK_TOKENS..longest.div_ceil(BLOCK_TOKENS)
    }

    /// A head's numbers, and where its scales are.
    fn block(&self, of: &'a [T], block: usize, head: usize) -> (&'a [T], &'a [T]) {
        let heads = &self.input.heads;
        let table = &self.input.segments[self.task.segment].blocks;
        let start = heads.block_start::<T>(table[block], head);
        of[start..start + heads.block_elements() + T::SCALES].split_at(heads.block_elements())
    }

    /// `scores [head, query, SPAN]`, scaled; where a query sees nothing they mean nothing.
    #[inline(always)]
    pub fn scores<V: Vector, const N: usize>(&self, span: usize, scores: &mut [f32]) {
        let dim = self.input.heads.dim;
        for block in self.blocks(span) {
            let heads = self.task.heads.clone().zip(self.q.chunks_exact(dim)).zip(scores.chunks_exact_mut(Q * SPAN));
            for ((head, q), scores) in heads {
                let (keys, scales) = self.block(self.input.keys, block, head);
                let mut sums = [[V::splat(0.0); N]; Q];
                for (keys, q) in keys.as_chunks::<BLOCK_TOKENS>().0.iter().zip(q) {
                    let mut key = [V::splat(0.0); N];
                    for n in 0..N {
                        key[n] = T::load(&keys[n * V::LANES..]);
                    }
                    for i in 0..Q {
                        let q = V::splat(q[i]);
                        for n in 0..N {
                            sums[i][n] = sums[i][n].add_product(q, key[n]);
                        }
                    }
                }
                if T::SCALES > 0 {
                    let scales = T::scales(scales);
                    for i in 0..Q {
                        for n in 0..N {
                            sums[i][n] = V::splat(0.0).add_product(sums[i][n], V::load(&scales[n * V::LANES..]));
                        }
                    }
                }
                for i in 0..Q {
                    let scores = &mut scores[i * SPAN + block * BLOCK_TOKENS - span * SPAN..];
                    for n in 0..N {
                        sums[i][n].store(&mut scores[n * V::LANES..]);
                    }
                }
            }
        }
    }

    /// `sums [head, query, dim]`: the values of a span, each times its weight of `weights [head, query, SPAN]`.
    #[inline(always)]
    pub fn weigh<V: Vector, const N: usize>(
        &self,
        span: usize,
        weights: &[f32],
        seen: &[Range<usize>; Q],
        sums: &mut [f32],
    ) {
        let dim = self.input.heads.dim;
        sums.fill(0.0);
        for block in self.blocks(span) {
            let first = block * BLOCK_TOKENS - span * SPAN;
            let mut ends = [0; Q];
            let mut all = BLOCK_TOKENS;
            for i in 0..Q {
                ends[i] = seen[i].end.saturating_sub(first).min(BLOCK_TOKENS);
                all = all.min(ends[i]);
            }
            let heads = weights.chunks_exact(Q * SPAN).zip(sums.chunks_exact_mut(Q * dim));
            for (head, (weights, sums)) in self.task.heads.clone().zip(heads) {
                let (values, scales) = self.block(self.input.values, block, head);
                let mut scaled = [[0.0; BLOCK_TOKENS]; Q];
                let mut block_weights: [&[f32]; Q] = [&[]; Q];
                if T::SCALES > 0 {
                    let scales = T::scales(scales);
                    for i in 0..Q {
                        let weights = &weights[i * SPAN + first..][..BLOCK_TOKENS];
                        for slot in 0..BLOCK_TOKENS {
                            scaled[i][slot] = weights[slot] * scales[slot];
                        }
                    }
                }
                for i in 0..Q {
                    block_weights[i] =
                        if T::SCALES > 0 { &scaled[i] } else { &weights[i * SPAN + first..][..BLOCK_TOKENS] };
                }
                weigh_values::<V, N, Q, T>(&block_weights, values, dim, 0..all, sums);
                for i in 0..Q {
                    let sums = &mut sums[i * dim..][..dim];
                    weigh_values::<V, N, 1, T>(&[block_weights[i]], values, dim, all..ends[i], sums);
                }
            }
        }
    }
}
