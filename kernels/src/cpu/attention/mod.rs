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
//!
//! A block has all heads behind one another, and a processor foresees a long stream, but not pages here and there. So where there are few
//! queries, and memory is what is waited for, a task has several heads and reads a block of all of them before it goes on to the next.

mod queries;
mod spans;
mod tasks;
mod values;

use super::dispatch::On;
use super::kv::{Element, Heads};
use super::scratch::{self, Scratch};
use super::shared::Shared;
use super::vector::{Vector, vectored};
use crate::{Scores, Segment};
use queries::Queries;
use spans::{Row, merge, softmax};
use std::cell::RefCell;
use std::ops::Range;
use tasks::{Cut, Task, deal};

/// Positions of a span: its scores, keys and values of one head stay in a core's first two caches.
const SPAN: usize = 256;
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
        let cut = deal(tasks, input, on.pool.threads());
        let out = &Shared::new(out);
        {
            let shares = match cut {
                Cut::Whole => None,
                Cut::Spans { floats } => {
                    if shares.len() < floats {
                        shares.resize(floats, 0.0);
                    }
                    Some(Shared::new(shares))
                }
            };
            let tasks = &*tasks;
            on.pool.run(tasks.len(), &|i| {
                scratch::with(|scratch| run(on.level, input, &tasks[i], scratch, shares.as_ref(), out));
            });
        }
        if cut != Cut::Whole {
            let together = tasks.chunk_by(|a, b| (a.segment, &a.heads, &a.rows) == (b.segment, &b.heads, &b.rows));
            together.for_each(|tasks| add_up(on.level, input, tasks, shares, out));
        }
    });
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
    match task.rows.len() * input.heads.group() {
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
    let (dim, heads) = (input.heads.dim, task.heads.len());
    let each = task.rows.len() * input.heads.group();
    // Of one tile, whose queries of each head are worked on together.
    let count = heads * Q;
    let tiles = each.div_ceil(Q);
    let floats = count * (SPAN + dim + 2) + tiles * count * (dim + Row::floats(dim));
    let (scores, rest) = scratch.floats(floats).split_at_mut(count * SPAN);
    let (sums, rest) = rest.split_at_mut(count * dim);
    let (tops, rest) = rest.split_at_mut(count * 2);
    let tops = tops.as_chunks_mut::<2>().0;
    let (q, rows) = rest.split_at_mut(tiles * count * dim);
    for (tile, q) in q.chunks_exact_mut(count * dim).enumerate() {
        Queries::<T, Q>::scale(input, task, tile, q);
    }
    rows.chunks_exact_mut(Row::floats(dim)).for_each(|row| Row(row).empty());
    // A span's keys and values are in the cache for all tiles.
    for span in task.spans.clone() {
        let of_tiles = q.chunks_exact(count * dim).zip(rows.chunks_exact_mut(count * Row::floats(dim)));
        for (tile, (q, rows)) in of_tiles.enumerate() {
            let queries = Queries::<T, Q>::new(input, task, tile, q);
            let seen = queries.seen(span);
            if seen.iter().all(Range::is_empty) {
                continue;
            }
            queries.scores::<V, N>(span, scores);
            for (i, (scores, top)) in scores.chunks_exact_mut(SPAN).zip(&mut *tops).enumerate() {
                *top = softmax::<V>(scores, seen[i % Q].clone()).into();
            }
            queries.weigh::<V, N>(span, scores, &seen, sums);
            let of_all = rows.chunks_exact_mut(Row::floats(dim)).zip(sums.chunks_exact(dim)).zip(&*tops).enumerate();
            for (i, ((row, sums), top)) in of_all {
                if !seen[i % Q].is_empty() {
                    merge::<V>(row, (*top).into(), sums);
                }
            }
        }
    }
    for (i, row) in rows.chunks_exact_mut(Row::floats(dim)).enumerate() {
        let (head, i) = (i / Q % heads, i / count * Q + i % Q);
        match shares {
            // Of the last tile, which is not full.
            _ if i >= each => {}
            None => {
                let start = start_of(input, task, head, i);
                // SAFETY: one head of one row, which no other task has.
                Row(row).finish(unsafe { out.part(start..start + dim) });
            }
            Some(shares) => {
                let at = (task.shares + head * each + i) * Row::floats(dim);
                // SAFETY: each query of each task has a place of its own.
                unsafe { shares.part(at..at + Row::floats(dim)) }.copy_from_slice(row);
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
    let dim = input.heads.dim;
    let floats = Row::floats(dim);
    let Some((first, others)) = tasks.split_first() else { return };
    let each = first.rows.len() * input.heads.group();
    let end = first.shares + first.heads.len() * each;
    let (before, after) = shares.split_at_mut(end * floats);
    let sums = &mut before[first.shares * floats..];
    for (i, sum) in sums.chunks_exact_mut(floats).enumerate() {
        for task in others {
            let at = (task.shares + i - end) * floats;
            let (top, values) = Row::parts(&after[at..at + floats]);
            merge::<V>(sum, top, values);
        }
        let start = start_of(input, first, i / each, i % each);
        // SAFETY: one head of one row, once.
        Row(sum).finish(unsafe { out.part(start..start + dim) });
    }
}

/// Where in `q` and in the result query `i` of a task's `head`-th head begins.
fn start_of<T>(input: &Input<T>, task: &Task, head: usize, i: usize) -> usize {
    let (Heads { query, dim, .. }, group) = (input.heads, input.heads.group());
    let row = input.segments[task.segment].row + task.rows.start + i / group;
    (row * query + (task.heads.start + head) * group + i % group) * dim
}
