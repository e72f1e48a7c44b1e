//! Causal grouped-query attention over keys and values in blocks.
//!
//! A query is one row's head. A few queries that read the same keys (heads of a group,
//! neighbouring rows) are worked on together; each has its own sums, filled in the order of the
//! positions, so the company it has does not show in its result.
//!
//! Two passes: all scores of a query, its softmax, then the weighted values. Only keys up to the
//! query's own position are ever used, so what a block holds behind them does not matter.

use super::dispatch::On;
use super::kv::{Element, Heads};
use super::lanes::exp;
use super::scratch::{self, Scratch};
use super::shared::Shared;
use super::vector::{Vector, vectored};
use crate::{BLOCK_TOKENS, Scores, Segment};
use std::ops::Range;

/// Rows of a segment in one task.
const TASK_ROWS: usize = 8;

/// What every task reads.
struct Input<'a, T> {
    /// `[rows, query heads, dim]`
    q: &'a [f32],
    keys: &'a [T],
    values: &'a [T],
    heads: Heads,
    scoring: Scores,
}

/// One head's keys, and rows of one segment that read them.
struct Task<'a> {
    segment: &'a Segment,
    kv_head: usize,
    /// Counted from the segment's first row.
    rows: Range<usize>,
}

/// Writes attention's result to `out [rows, query heads, dim]`; the keys and values of all
/// segments' rows have been written.
pub(crate) fn attention<T: Element>(
    on: On,
    q: &[f32],
    (keys, values): (&[T], &[T]),
    heads: Heads,
    segments: &[Segment],
    scoring: Scores,
    out: &mut [f32],
) {
    let input = &Input { q, keys, values, heads, scoring };
    let tasks: Vec<Task> = segments
        .iter()
        .flat_map(|segment| {
            (0..heads.kv).flat_map(move |kv_head| {
                (0..segment.rows).step_by(TASK_ROWS).map(move |row| Task {
                    segment,
                    kv_head,
                    rows: row..segment.rows.min(row + TASK_ROWS),
                })
            })
        })
        .collect();
    let out = &Shared::new(out);
    on.pool.run(tasks.len(), &|i| scratch::with(|scratch| run(on.level, input, &tasks[i], scratch, out)));
}

vectored! {
    fn run<T: Element>(input: &Input<T>, task: &Task, scratch: &mut Scratch, out: &Shared<f32>) = run_with
}

/// `Q` queries are worked on together, and `N` vectors hold the scores of one block.
#[inline(always)]
fn run_with<V: Vector, const N: usize, const Q: usize, T: Element>(
    input: &Input<T>,
    task: &Task,
    scratch: &mut Scratch,
    out: &Shared<f32>,
) {
    let Heads { query, kv, dim } = input.heads;
    let group = query / kv;
    let queries = task.rows.len() * group;
    let reach = (task.segment.position + task.rows.end).next_multiple_of(BLOCK_TOKENS);
    let (scores, sums) = scratch.floats(Q * (reach + dim)).split_at_mut(Q * reach);
    for first in (0..queries).step_by(Q) {
        let used = Q.min(queries - first);
        let mut starts = [0; Q];
        let mut lengths = [0; Q];
        let mut firsts = [0; Q];
        for i in 0..Q {
            // A tile that is not full computes its last query several times.
            let at = first + i.min(used - 1);
            let (row, head) = (task.rows.start + at / group, task.kv_head * group + at % group);
            starts[i] = ((task.segment.row + row) * query + head) * dim;
            let position = task.segment.position + row;
            lengths[i] = position + 1;
            firsts[i] = input.scoring.first_seen(position);
        }
        let q = starts.map(|start| &input.q[start..start + dim]);
        let tile = Tile { input, task, q, firsts, lengths, reach };
        tile.scores::<V, N>(scores);
        let mut totals = [0.0; Q];
        for i in 0..Q {
            let scores = &mut scores[i * reach..][..reach];
            totals[i] = softmax::<V>(scores, firsts[i]..lengths[i]);
        }
        tile.weigh::<V, N>(scores, sums);
        for i in 0..used {
            // SAFETY: one head of one row, which no other task has.
            let out = unsafe { out.part(starts[i]..starts[i] + dim) };
            for (out, sum) in out.iter_mut().zip(&sums[i * dim..]) {
                *out = sum / totals[i];
            }
        }
    }
}

/// Queries that read the same keys.
struct Tile<'a, T, const Q: usize> {
    input: &'a Input<'a, T>,
    task: &'a Task<'a>,
    q: [&'a [f32]; Q],
    /// The first position that each query sees.
    firsts: [usize; Q],
    /// One more than the last.
    lengths: [usize; Q],
    /// Scores that each query has room for, whole blocks.
    reach: usize,
}

#[allow(clippy::needless_range_loop)] // several arrays share the index of a query
impl<T: Element, const Q: usize> Tile<'_, T, Q> {
    /// Blocks that hold what any of the queries sees.
    fn blocks(&self) -> Range<usize> {
        let longest = self.lengths.into_iter().max().unwrap_or(0);
        self.firsts.into_iter().min().unwrap_or(0) / BLOCK_TOKENS..longest.div_ceil(BLOCK_TOKENS)
    }

    /// Its numbers, and where its scales are.
    fn block<'a>(&self, of: &'a [T], block: usize) -> (&'a [T], &'a [T]) {
        let heads = &self.input.heads;
        let start = heads.block_start::<T>(self.task.segment.blocks[block], self.task.kv_head);
        of[start..start + heads.block_elements() + T::SCALES].split_at(heads.block_elements())
    }

    /// `scores [query, reach]`, scaled; where a query sees nothing they mean nothing.
    #[inline(always)]
    fn scores<V: Vector, const N: usize>(&self, scores: &mut [f32]) {
        let scale = self.input.scoring.scale;
        for block in self.blocks() {
            let (keys, scales) = self.block(self.input.keys, block);
            let keys = keys.as_chunks::<BLOCK_TOKENS>().0;
            let mut sums = [[V::splat(0.0); N]; Q];
            for (d, keys) in keys.iter().enumerate() {
                let mut key = [V::splat(0.0); N];
                for n in 0..N {
                    key[n] = T::load(&keys[n * V::LANES..]);
                }
                for i in 0..Q {
                    // Scaled here, so that it is not done to every score.
                    let q = V::splat(self.q[i][d] * scale);
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
                let scores = &mut scores[i * self.reach + block * BLOCK_TOKENS..];
                for n in 0..N {
                    sums[i][n].store(&mut scores[n * V::LANES..]);
                }
            }
        }
    }

    /// `sums [query, dim]`: the values, each times its weight.
    #[inline(always)]
    fn weigh<V: Vector, const N: usize>(&self, weights: &[f32], sums: &mut [f32]) {
        let dim = self.input.heads.dim;
        sums.fill(0.0);
        for block in self.blocks() {
            let first = block * BLOCK_TOKENS;
            let (values, scales) = self.block(self.input.values, block);
            let mut scaled = [[0.0; BLOCK_TOKENS]; Q];
            if T::SCALES > 0 {
                let scales = T::scales(scales);
                for i in 0..Q {
                    let weights = &weights[i * self.reach + first..][..BLOCK_TOKENS];
                    for slot in 0..BLOCK_TOKENS {
                        scaled[i][slot] = weights[slot] * scales[slot];
                    }
                }
            }
            let mut ends = [0; Q];
            let mut all = BLOCK_TOKENS;
            let mut block_weights: [&[f32]; Q] = [&[]; Q];
            for i in 0..Q {
                ends[i] = self.lengths[i].saturating_sub(first).min(BLOCK_TOKENS);
                all = all.min(ends[i]);
                block_weights[i] =
                    if T::SCALES > 0 { &scaled[i] } else { &weights[i * self.reach + first..][..BLOCK_TOKENS] };
            }
            weigh_values::<V, N, Q, T>(&block_weights, values, dim, 0..all, sums);
            for i in 0..Q {
                let sums = &mut sums[i * dim..][..dim];
                weigh_values::<V, N, 1, T>(&[block_weights[i]], values, dim, all..ends[i], sums);
            }
        }
    }
}

/// Adds `weights[position] * values[position]` for each position, in order, to `sums [R, dim]`.
#[inline(always)]
fn weigh_values<V: Vector, const N: usize, const R: usize, T: Element>(
    weights: &[&[f32]; R],
    values: &[T],
    dim: usize,
    positions: Range<usize>,
    sums: &mut [f32],
) {
    if positions.is_empty() {
        return;
    }
    let mut at = 0;
    while at + N * V::LANES <= dim {
        weigh_columns::<V, N, R, T>(weights, values, dim, positions.clone(), at, sums);
        at += N * V::LANES;
    }
    while at + V::LANES <= dim {
        weigh_columns::<V, 1, R, T>(weights, values, dim, positions.clone(), at, sums);
        at += V::LANES;
    }
    for i in 0..R {
        for at in at..dim {
            let sum = &mut sums[i * dim + at];
            for position in positions.clone() {
                let value = values[position * dim + at].widen();
                *sum = V::add_product_of_one(*sum, weights[i][position], value);
            }
        }
    }
}

/// [`weigh_values`] for `N` vectors of elements from `at` on.
#[inline(always)]
fn weigh_columns<V: Vector, const N: usize, const R: usize, T: Element>(
    weights: &[&[f32]; R],
    values: &[T],
    dim: usize,
    positions: Range<usize>,
    at: usize,
    sums: &mut [f32],
) {
    let mut acc = [[V::splat(0.0); N]; R];
    for i in 0..R {
        for n in 0..N {
            acc[i][n] = V::load(&sums[i * dim + at + n * V::LANES..]);
        }
    }
    for position in positions {
        let values = &values[position * dim + at..][..N * V::LANES];
        let mut value = [V::splat(0.0); N];
        for n in 0..N {
            value[n] = T::load(&values[n * V::LANES..]);
        }
        for i in 0..R {
            let weight = V::splat(weights[i][position]);
            for n in 0..N {
                acc[i][n] = acc[i][n].add_product(weight, value[n]);
            }
        }
    }
    for i in 0..R {
        for n in 0..N {
            acc[i][n].store(&mut sums[i * dim + at + n * V::LANES..]);
        }
    }
}

/// Makes of the scores `seen` their exponentials against the greatest, of the others 0, and gives the sum.
///
/// A score's lane follows from its position alone, so that neither sum nor greatest depend on where a tile begins.
#[inline(always)]
fn softmax<V: Vector>(scores: &mut [f32], seen: Range<usize>) -> f32 {
    let (before, scores) = scores.split_at_mut(seen.start / V::LANES * V::LANES);
    before.fill(0.0);
    let seen = seen.start - before.len()..seen.end - before.len();
    let (scores, beyond) = scores.split_at_mut(seen.end.next_multiple_of(V::LANES));
    beyond.fill(0.0);
    scores[..seen.start].fill(f32::NEG_INFINITY);
    scores[seen.end..].fill(f32::NEG_INFINITY);
    let mut greatest = V::splat(f32::NEG_INFINITY);
    for scores in scores.chunks_exact(V::LANES) {
        greatest = greatest.max(V::load(scores));
    }
    let mut lanes = [f32::NEG_INFINITY; BLOCK_TOKENS];
    greatest.store(&mut lanes);
    let mut most = lanes[0];
    for lane in lanes {
        most = most.max(lane);
    }
    for score in scores.iter_mut() {
        *score = if V::FMA { exp::<true>(*score - most) } else { exp::<false>(*score - most) };
    }
    let mut sum = V::splat(0.0);
    for scores in scores.chunks_exact(V::LANES) {
        sum = sum.add_product(V::splat(1.0), V::load(scores));
    }
    sum.fold()
}
