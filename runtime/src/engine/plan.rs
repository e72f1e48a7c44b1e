//! Which rows the next step computes: every decode row first, then prefill, up to a bound.
//!
//! Half of what is left for prefill goes to the oldest, the other half to whoever is nearest to its first token: a long prompt
//! neither starves nor makes short ones wait for all of it.
//!
//! **Invariant:** pure; each sequence with pending rows gets some within a bounded number of steps, because there is room for
//! twice as many rows as sequences ([`super::Limits::with_sequences`]) and the oldest prefill always has half of what is left.

/// Rows for one sequence of the running set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Index in the running set.
    pub index: usize,
    /// Rows, at least 1.
    pub rows: usize,
}

/// `pending`: rows that each running sequence waits for, oldest first; 0 where it must pause. Shares come in that order.
pub fn plan(pending: &[usize], rows_max: usize) -> Vec<Share> {
    let mut rows = vec![0; pending.len()];
    let mut left = rows_max;
    let mut give = |index: usize, most: usize, left: &mut usize| {
        let more = (pending[index] - rows[index]).min(most).min(*left);
        rows[index] += more;
        *left -= more;
    };
    let decode = (0..pending.len()).filter(|&i| pending[i] == 1);
    decode.for_each(|i| give(i, 1, &mut left));
    let mut prefill: Vec<usize> = (0..pending.len()).filter(|&i| pending[i] > 1).collect();
    if let Some(&oldest) = prefill.first() {
        give(oldest, left.div_ceil(2), &mut left);
        prefill.sort_by_key(|&i| pending[i]);
        prefill.iter().for_each(|&i| give(i, usize::MAX, &mut left));
    }
    let share = |(index, rows): (usize, usize)| (rows > 0).then_some(Share { index, rows });
    rows.into_iter().enumerate().filter_map(share).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Limits;
    use proptest::prelude::*;

    fn shares(pending: &[usize], rows_max: usize) -> Vec<(usize, usize)> {
        plan(pending, rows_max).iter().map(|s| (s.index, s.rows)).collect()
    }

    #[test]
    fn decode_goes_first_then_the_oldest_and_the_shortest_prefill_share_the_rest() {
        assert_eq!(shares(&[600, 1, 0, 40, 1], 512), [(0, 470), (1, 1), (3, 40), (4, 1)]);
        assert_eq!(shares(&[90, 1, 0, 40], 128), [(0, 87), (1, 1), (3, 40)]);
        assert_eq!(shares(&[900, 300, 400, 20], 512), [(0, 256), (1, 236), (3, 20)]);
        assert_eq!(shares(&[0, 0], 512), []);
    }

    proptest! {
        /// However many sequences are allowed, and all but one of them decode.
        #[test]
        fn a_prefill_among_any_number_of_decoding_sequences_has_as_many_rows(sequences in 1usize..5000, prompt in 2usize..9000) {
            let Limits { sequences, rows, .. } = Limits::with_sequences(sequences);
            let mut pending = vec![1; sequences];
            pending[sequences / 2] = prompt;
            let found = plan(&pending, rows);
            prop_assert!(found.iter().map(|s| s.rows).sum::<usize>() <= rows);
            prop_assert_eq!(found.len(), sequences);
            prop_assert!(found[sequences / 2].rows >= prompt.min(sequences));
        }

        #[test]
        fn no_step_is_too_large_none_is_empty_while_rows_are_pending_and_the_oldest_advances(
            pending in proptest::collection::vec(0usize..900, 0..300), spare in 2usize..600
        ) {
            let rows_max = pending.len() + spare;
            let found = plan(&pending, rows_max);
            prop_assert!(found.iter().map(|s| s.rows).sum::<usize>() <= rows_max);
            prop_assert!(found.iter().all(|s| s.rows > 0 && s.rows <= pending[s.index]));
            prop_assert!(found.is_sorted_by_key(|s| s.index));
            prop_assert_eq!(found.is_empty(), pending.iter().all(|&p| p == 0));
            let has = |i: usize| found.iter().any(|s| s.index == i);
            prop_assert!(pending.iter().enumerate().filter(|p| *p.1 == 1).all(|(i, _)| has(i)));
            prop_assert!(pending.iter().position(|&p| p > 1).is_none_or(has));
        }
    }
}
