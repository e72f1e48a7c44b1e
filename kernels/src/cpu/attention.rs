//! Causal grouped-query attention over keys and values in blocks.
//!
//! A query is one row's head. A few queries that read the same keys (heads of a group,
//! neighbouring rows) are worked on together; each has its own sums, filled in the order of the
//! positions, so the company it has does not show in its result.
//!
//! Positions are cut into spans at fixed places. What a query makes of a span is a share: greatest score, sum of the
//! exponentials against it, and the values weighed by them (online softmax: Milakov & Gimelshein 2018, arXiv:1805.02867). Shares
//! are added up in the order of the spans, whether one thread has made all of them or several: a long sequence is read by all
//! threads, with the same bits. Only keys up to the query's own position are ever used, so what a block holds behind them does
//! not matter.

use super::dispatch::On;
use super::kv::{Element, Heads};
use super::scratch::{self, Scratch};
use super::shared::Shared;
use super::spans::{Row, merge, softmax};
use super::values::weigh_values;
use super::vector::{Vector, prefetch, vectored};
use crate::{BLOCK_TOKENS, Scores, Segment};
use std::cell::RefCell;
use std::ops::Range;

/// Rows of a segment in one task.
const TASK_ROWS: usize = 8;
/// Positions of a span: its scores, keys and values of one head stay in a core's first cache.
const SPAN: usize = 256;
/// Tasks for each thread from which on none is cut along the positions.
const ENOUGH_TASKS: usize = 4;
/// Floats that the shares of a call take at most: where they would be more, none is cut. A prompt has rows enough for all threads
/// long before.
const SHARES_MAX: usize = 4 << 20;
/// Queries that are worked on together where the registers hold so many.
const WIDE: usize = 8;

/// What every task reads.
#[derive(Clone, Copy)]
struct Input<'a, T> {
    /// `[rows, query heads, dim]`
    q: &'a [f32],
    keys: &'a [T],
    values: &'a [T],
    heads: Heads,
    scoring: Scores,
    segments: &'a [Segment],
}

/// One head's keys in some spans, and rows of one segment that read them.
#[derive(Clone)]
struct Task {
    segment: usize,
    kv_head: usize,
    /// Counted from the segment's first row.
    rows: Range<usize>,
    spans: Range<usize>,
    /// Where its shares go, one for each query; of no meaning where the task has all spans.
    shares: usize,
}

#[derive(Default)]
struct Memory {
    tasks: Vec<Task>,
    shares: Vec<f32>,
}

thread_local! {
    /// The tasks of a call, so that it does not allocate.
    static MEMORY: RefCell<Memory> = RefCell::default();
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
    let input = &Input { q, keys, values, heads, scoring, segments };
    MEMORY.with_borrow_mut(|Memory { tasks, shares }| {
        deal(tasks, input, usize::MAX);
        let group = heads.query / heads.kv;
        let floats = |task: &Task| task.rows.len() * group * task.spans.len() * Row::floats(heads.dim);
        let floats = tasks.iter().map(floats).sum();
        let few = on.pool.threads() > 1 && tasks.len() < ENOUGH_TASKS * on.pool.threads();
        let cut = few && floats <= SHARES_MAX && tasks.iter().any(|task| task.spans.len() > 1);
        if cut {
            deal(tasks, input, 1);
            if shares.len() < floats {
                shares.resize(floats, 0.0);
            }
        }
        let out = &Shared::new(out);
        {
            let shares = if cut { Some(Shared::new(shares)) } else { None };
            let tasks = &*tasks;
            on.pool.run(tasks.len(), &|i| {
                scratch::with(|scratch| run(on.level, input, &tasks[i], scratch, shares.as_ref(), out));
            });
        }
        if cut {
            let together = tasks.chunk_by(|a, b| (a.segment, a.kv_head, &a.rows) == (b.segment, b.kv_head, &b.rows));
            together.for_each(|tasks| add_up(on.level, input, tasks, shares, out));
        }
    });
}

/// The tasks of a call, with at most so many spans each.
fn deal<T>(tasks: &mut Vec<Task>, input: &Input<T>, spans_each: usize) {
    tasks.clear();
    let group = input.heads.query / input.heads.kv;
    let mut shares = 0;
    for (number, segment) in input.segments.iter().enumerate() {
        for kv_head in 0..input.heads.kv {
            for row in (0..segment.rows).step_by(TASK_ROWS) {
                let rows = row..segment.rows.min(row + TASK_ROWS);
                let first = input.scoring.first_seen(segment.position + rows.start) / SPAN;
                let end = (segment.position + rows.end).div_ceil(SPAN);
                for from in (first..end).step_by(spans_each.min(end - first)) {
                    let spans = from..end.min(from.saturating_add(spans_each));
                    tasks.push(Task { segment: number, kv_head, rows: rows.clone(), spans, shares });
                    shares += rows.len() * group;
                }
            }
        }
    }
}

vectored! {
    fn run<T: Element>(
        input: &Input<T>,
        task: &Task,
        scratch: &mut Scratch,
        shares: Option<&Shared<f32>>,
        out: &Shared<f32>,
    ) = run_with
}

/// `Q` queries are worked on together, and `N` vectors hold the scores of one block.
#[inline(always)]
fn run_with<V: Vector, const N: usize, const Q: usize, T: Element>(
    input: &Input<T>,
    task: &Task,
    scratch: &mut Scratch,
    shares: Option<&Shared<f32>>,
    out: &Shared<f32>,
) {
    // One new token has a query for each head of a group, and a query more than there are costs as much as one that is there. With sixteen lanes
    // there are registers for more.
    match task.rows.len() * (input.heads.query / input.heads.kv) {
        1 => tiles::<V, N, 1, T>(input, task, scratch, shares, out),
        2 if V::LANES == 16 => tiles::<V, N, 2, T>(input, task, scratch, shares, out),
        3 if V::LANES == 16 => tiles::<V, N, 3, T>(input, task, scratch, shares, out),
        many if V::LANES == 16 && many > Q => tiles::<V, N, WIDE, T>(input, task, scratch, shares, out),
        _ => tiles::<V, N, Q, T>(input, task, scratch, shares, out),
    }
}

#[inline(always)]
fn tiles<V: Vector, const N: usize, const Q: usize, T: Element>(
    input: &Input<T>,
    task: &Task,
    scratch: &mut Scratch,
    shares: Option<&Shared<f32>>,
    out: &Shared<f32>,
) {
    let (dim, group) = (input.heads.dim, input.heads.query / input.heads.kv);
    let queries = task.rows.len() * group;
    let (scores, rest) = scratch.floats(Q * (SPAN + 2 * dim + Row::floats(dim))).split_at_mut(Q * SPAN);
    let (q, rest) = rest.split_at_mut(Q * dim);
    let (sums, rows) = rest.split_at_mut(Q * dim);
    for first in (0..queries).step_by(Q) {
        let used = Q.min(queries - first);
        let tile = Tile::<T, Q>::new(input, task, first, used, q);
        rows.fill(0.0);
        rows.chunks_exact_mut(Row::floats(dim)).for_each(|row| Row(row).empty());
        for span in task.spans.clone() {
            let seen = tile.seen(span);
            tile.scores::<V, N>(span, scores);
            let mut tops = [(f32::NEG_INFINITY, 0.0); Q];
            for i in 0..Q {
                tops[i] = softmax::<V>(&mut scores[i * SPAN..][..SPAN], seen[i].clone());
            }
            tile.weigh::<V, N>(span, scores, &seen, sums);
            for i in 0..used {
                if !seen[i].is_empty() {
                    merge::<V>(&mut rows[i * Row::floats(dim)..][..Row::floats(dim)], tops[i], &sums[i * dim..][..dim]);
                }
            }
        }
        for (i, row) in rows.chunks_exact_mut(Row::floats(dim)).enumerate().take(used) {
            match shares {
                None => {
                    let start = tile.starts[i];
                    // SAFETY: one head of one row, which no other task has.
                    Row(row).finish(unsafe { out.part(start..start + dim) });
                }
                Some(shares) => {
                    let at = (task.shares + first + i) * Row::floats(dim);
                    // SAFETY: each query of each task has a place of its own.
                    unsafe { shares.part(at..at + Row::floats(dim)) }.copy_from_slice(row);
                }
            }
        }
    }
}

vectored! {
    fn add_up<T: Element>(input: &Input<T>, tasks: &[Task], shares: &mut [f32], out: &Shared<f32>) = add_up_with
}

/// Adds up what several tasks have of the same queries.
#[inline(always)]
fn add_up_with<V: Vector, const N: usize, const Q: usize, T: Element>(
    input: &Input<T>,
    tasks: &[Task],
    shares: &mut [f32],
    out: &Shared<f32>,
) {
    let (dim, group) = (input.heads.dim, input.heads.query / input.heads.kv);
    let floats = Row::floats(dim);
    let Some((first, others)) = tasks.split_first() else { return };
    let (before, after) = shares.split_at_mut((first.shares + first.rows.len() * group) * floats);
    let sums = &mut before[first.shares * floats..];
    for (i, sum) in sums.chunks_exact_mut(floats).enumerate() {
        for task in others {
            let at = (task.shares + i) * floats - (first.shares + first.rows.len() * group) * floats;
            let (top, values) = Row::parts(&after[at..at + floats]);
            merge::<V>(sum, top, values);
        }
        let start = start_of(input, first, i);
        // SAFETY: one head of one row, once.
        Row(sum).finish(unsafe { out.part(start..start + dim) });
    }
}

/// Where in `q` and in the result query `i` of a task begins.
fn start_of<T>(input: &Input<T>, task: &Task, i: usize) -> usize {
    let Heads { query, kv, dim } = input.heads;
    let group = query / kv;
    let row = input.segments[task.segment].row + task.rows.start + i / group;
    (row * query + task.kv_head * group + i % group) * dim
}

/// Queries that read the same keys.
struct Tile<'a, T, const Q: usize> {
    input: &'a Input<'a, T>,
    task: &'a Task,
    /// `[dim, query]`, scaled
    q: &'a [[f32; Q]],
    starts: [usize; Q],
    /// The first position that each query sees.
    firsts: [usize; Q],
    /// One more than the last.
    lengths: [usize; Q],
}

#[allow(clippy::needless_range_loop)] // several arrays share the index of a query
impl<'a, T: Element, const Q: usize> Tile<'a, T, Q> {
    /// A tile that is not full computes its last query several times.
    #[inline(always)]
    fn new(input: &'a Input<'a, T>, task: &'a Task, first: usize, used: usize, q: &'a mut [f32]) -> Self {
        let (dim, group) = (input.heads.dim, input.heads.query / input.heads.kv);
        let (mut starts, mut firsts, mut lengths) = ([0; Q], [0; Q], [0; Q]);
        let q = &mut q.as_chunks_mut::<Q>().0[..dim];
        for i in 0..Q {
            let number = first + i.min(used - 1);
            starts[i] = start_of(input, task, number);
            let position = input.segments[task.segment].position + task.rows.start + number / group;
            lengths[i] = position + 1;
            firsts[i] = input.scoring.first_seen(position);
            // Scaled here, so that it is not done to every score.
            for (to, from) in q.iter_mut().zip(&input.q[starts[i]..][..dim]) {
                to[i] = from * input.scoring.scale;
            }
        }
        Self { input, task, q, starts, firsts, lengths }
    }

    /// What each query sees of a span, counted from its beginning.
    fn seen(&self, span: usize) -> [Range<usize>; Q] {
        let within = |position: usize| position.saturating_sub(span * SPAN).min(SPAN);
        std::array::from_fn(|i| within(self.firsts[i])..within(self.lengths[i]))
    }

    /// Blocks of a span that hold what any of the queries sees.
    fn blocks(&self, span: usize) -> Range<usize> {
        let (from, to) = (span * SPAN, (span + 1) * SPAN);
        let longest = self.lengths.into_iter().max().unwrap_or(0).clamp(from, to);
        self.firsts.into_iter().min().unwrap_or(0).clamp(from, to) / BLOCK_TOKENS..longest.div_ceil(BLOCK_TOKENS)
    }

    /// Its numbers, and where its scales are.
    fn block(&self, of: &'a [T], block: usize) -> (&'a [T], &'a [T]) {
        let heads = &self.input.heads;
        let table = &self.input.segments[self.task.segment].blocks;
        let start = heads.block_start::<T>(table[block], self.task.kv_head);
        of[start..start + heads.block_elements() + T::SCALES].split_at(heads.block_elements())
    }

    /// What is read after `block`: keys block after block, then values, then the next span.
    fn next(&self, span: usize, block: usize, of_keys: bool) -> &'a [T] {
        let Range { start, end } = self.blocks(span);
        let (of, block) = match (of_keys, block + 1 == end) {
            (true, false) => (self.input.keys, block + 1),
            (true, true) => (self.input.values, start),
            (false, false) => (self.input.values, block + 1),
            (false, true) if span + 1 < self.task.spans.end => (self.input.keys, block + 1),
            (false, true) => return &[],
        };
        self.block(of, block).0
    }

    /// `scores [query, SPAN]`, scaled; where a query sees nothing they mean nothing.
    #[inline(always)]
    fn scores<V: Vector, const N: usize>(&self, span: usize, scores: &mut [f32]) {
        for block in self.blocks(span) {
            let (keys, scales) = self.block(self.input.keys, block);
            let keys = keys.as_chunks::<BLOCK_TOKENS>().0;
            let next = self.next(span, block, true);
            let mut sums = [[V::splat(0.0); N]; Q];
            for (d, (keys, q)) in keys.iter().zip(self.q).enumerate() {
                prefetch(next, d * BLOCK_TOKENS, BLOCK_TOKENS);
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

    /// `sums [query, dim]`: the values of a span, each times its weight.
    #[inline(always)]
    fn weigh<V: Vector, const N: usize>(
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
            let (values, scales) = self.block(self.input.values, block);
            let mut scaled = [[0.0; BLOCK_TOKENS]; Q];
            if T::SCALES > 0 {
                let scales = T::scales(scales);
                for i in 0..Q {
                    let weights = &weights[i * SPAN + first..][..BLOCK_TOKENS];
                    for slot in 0..BLOCK_TOKENS {
                        scaled[i][slot] = weights[slot] * scales[slot];
                    }
                }
            }
            let mut ends = [0; Q];
            let mut all = BLOCK_TOKENS;
            let mut block_weights: [&[f32]; Q] = [&[]; Q];
            for i in 0..Q {
                ends[i] = seen[i].end.saturating_sub(first).min(BLOCK_TOKENS);
                all = all.min(ends[i]);
                block_weights[i] =
                    if T::SCALES > 0 { &scaled[i] } else { &weights[i * SPAN + first..][..BLOCK_TOKENS] };
            }
            let next = self.next(span, block, false);
            weigh_values::<V, N, Q, T>(&block_weights, (values, next), dim, 0..all, sums);
            for i in 0..Q {
                let sums = &mut sums[i * dim..][..dim];
                weigh_values::<V, N, 1, T>(&[block_weights[i]], (values, &[]), dim, all..ends[i], sums);
            }
        }
    }
}
