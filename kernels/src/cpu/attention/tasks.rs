//! How a call of attention is cut into tasks: pure, and of no consequence for any result.

use super::spans::Row;
use super::{Input, SPAN, WIDE};
use std::ops::Range;

/// Rows of a segment in one task.
const TASK_ROWS: usize = 16;
/// Tasks for each thread from which on none is cut further.
const ENOUGH_TASKS: usize = 4;
/// Floats that the shares of a call take at most: where they would be more, none is cut along the positions. A prompt has rows enough for all
/// threads long before.
const SHARES_MAX: usize = 4 << 20;

/// Some heads' keys in some spans, and rows of one segment that read them.
#[derive(Clone, Debug)]
pub(super) struct Task {
    pub segment: usize,
    /// Heads of keys.
    pub heads: Range<usize>,
    /// Counted from the segment's first row.
    pub rows: Range<usize>,
    pub spans: Range<usize>,
    /// Where its shares go, one for each query of each head; of no meaning where the task has all spans.
    pub shares: usize,
}

/// Whether tasks have all spans of their rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// They have.
    Whole,
    /// Each has one span. Their shares, which take so many floats, are added up when all are done.
    Spans { floats: usize },
}

/// Fills `tasks` with those of a call. They are cut no smaller than it takes for every one of `threads` threads to have some.
pub(super) fn deal<T>(tasks: &mut Vec<Task>, input: &Input<T>, threads: usize) -> Cut {
    let heads = input.heads.kv;
    let enough = ENOUGH_TASKS * threads;
    let have = |tasks: &Vec<Task>| threads == 1 || tasks.len() >= enough;
    fill(tasks, input, heads, usize::MAX);
    if have(tasks) {
        return Cut::Whole;
    }
    let floats = |task: &Task| {
        task.rows.len() * input.heads.group() * task.heads.len() * task.spans.len() * Row::floats(input.heads.dim)
    };
    let floats = tasks.iter().map(floats).sum();
    let (cut, spans_each) = match floats <= SHARES_MAX && tasks.iter().any(|task| task.spans.len() > 1) {
        true => (Cut::Spans { floats }, 1),
        false => (Cut::Whole, usize::MAX),
    };
    fill(tasks, input, heads, spans_each);
    if !have(tasks) {
        let parts = enough.div_ceil(tasks.len().max(1)).min(heads);
        fill(tasks, input, heads.div_ceil(parts), spans_each);
    }
    cut
}

/// With at most so many heads each, and so many spans.
fn fill<T>(tasks: &mut Vec<Task>, input: &Input<T>, heads_each: usize, spans_each: usize) {
    tasks.clear();
    let (heads, group) = (input.heads.kv, input.heads.group());
    let mut shares = 0;
    for (number, segment) in input.segments.iter().enumerate() {
        // Many queries compute more than they read, and find the keys of one head in the first cache.
        let heads_each = if segment.rows * group <= WIDE { heads_each } else { 1 };
        for head in (0..heads).step_by(heads_each) {
            let heads = head..heads.min(head + heads_each);
            for row in (0..segment.rows).step_by(TASK_ROWS) {
                let rows = row..segment.rows.min(row + TASK_ROWS);
                let first = input.scoring.first_seen(segment.position + rows.start) / SPAN;
                let end = (segment.position + rows.end).div_ceil(SPAN);
                for from in (first..end).step_by(spans_each.min(end - first)) {
                    let spans = from..end.min(from.saturating_add(spans_each));
                    tasks.push(Task { segment: number, heads: heads.clone(), rows: rows.clone(), spans, shares });
                    shares += rows.len() * group * heads.len();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::kv::Heads;
    use crate::{Scores, Segment};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_span_of_each_head_of_each_row_is_in_one_task_and_shares_have_places_of_their_own(
            (kv, group, threads) in (1usize..9, 1usize..9, 1usize..5),
            lengths in prop::collection::vec((0usize..1500, 1usize..20), 1..6),
            window in prop::option::of(1usize..600),
        ) {
            let heads = Heads { query: kv * group, kv, dim: 8 };
            let segment = |&(position, rows): &(usize, usize)| Segment { row: 0, rows, position, blocks: Vec::new() };
            let segments: Vec<_> = lengths.iter().map(segment).collect();
            let scoring = Scores { scale: 1.0, window };
            let input: Input<f32> = Input { q: &[], keys: &[], values: &[], heads, scoring, segments: &segments };
            let mut tasks = Vec::new();
            let cut = deal(&mut tasks, &input, threads);

            let mut places = Vec::new();
            for (number, segment) in segments.iter().enumerate() {
                for (head, row) in (0..kv).flat_map(|head| (0..segment.rows).map(move |row| (head, row))) {
                    let of_it = tasks.iter().filter(|t| t.segment == number && t.heads.contains(&head) && t.rows.contains(&row));
                    let spans: Vec<_> = of_it.flat_map(|task| task.spans.clone()).collect();
                    let position = segment.position + row;
                    // Neighbouring rows may see an earlier one, and the next.
                    let (first, last) = (scoring.first_seen(position) / SPAN, position / SPAN);
                    prop_assert!(spans.windows(2).all(|two| two[1] == two[0] + 1), "{spans:?}");
                    prop_assert!(spans[0] <= first && spans[spans.len() - 1] >= last, "{spans:?} of {first}..={last}");
                }
            }
            for task in &tasks {
                let queries = task.rows.len() * group * task.heads.len();
                prop_assert!(cut == Cut::Whole || task.spans.len() == 1);
                places.extend(task.shares..task.shares + queries);
            }
            if let Cut::Spans { floats } = cut {
                prop_assert!(places.len() * Row::floats(heads.dim) <= floats, "{} of {floats}", places.len());
                places.sort_unstable();
                prop_assert!(places.windows(2).all(|two| two[0] < two[1]));
            }
        }
    }

    /// Reading what lies together is what it is for, as long as there is enough to do for every thread.
    #[test]
    fn a_long_sequence_is_read_all_heads_at_a_time_and_a_shorter_one_by_fewer() {
        let heads = Heads { query: 9, kv: 3, dim: 64 };
        let dealt = |position| {
            let segments = [Segment { row: 0, rows: 1, position, blocks: Vec::new() }];
            let input: Input<f32> =
                Input { q: &[], keys: &[], values: &[], heads, scoring: Scores::scaled(1.0), segments: &segments };
            let mut tasks = Vec::new();
            let cut = deal(&mut tasks, &input, 2);
            (tasks.len(), tasks[0].heads.len(), cut == Cut::Whole)
        };
        assert_eq!(dealt(4095), (16, 3, false));
        assert_eq!(dealt(1023), (8, 2, false));
        assert_eq!(dealt(511), (6, 1, false));
        assert_eq!(dealt(100), (3, 1, true));
    }
}
