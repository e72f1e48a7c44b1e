//! Which rows the next step computes: every decode row first, then prefill in order of arrival, up to a bound.
//!
//! **Invariant:** pure; each sequence with pending rows gets some within a bounded number of steps, because decode rows
//! are fewer than the bound and prefill is served oldest first.

/// Rows for one sequence of the running set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Index in the running set.
    pub index: usize,
    /// Rows, at least 1.
    pub rows: usize,
}

/// `pending`: rows that each running sequence waits for, oldest first; 0 where it must pause.
pub fn plan(pending: &[usize], rows_max: usize) -> Vec<Share> {
    let mut left = rows_max;
    let mut take = |wanted: fn(usize) -> bool, shares: &mut Vec<Share>| {
        for (index, &rows) in pending.iter().enumerate().filter(|&(_, &rows)| wanted(rows)) {
            let rows = rows.min(left);
            left -= rows;
            shares.extend((rows > 0).then_some(Share { index, rows }));
        }
    };
    let mut shares = Vec::new();
    take(|rows| rows == 1, &mut shares);
    take(|rows| rows > 1, &mut shares);
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shares(pending: &[usize], rows_max: usize) -> Vec<(usize, usize)> {
        plan(pending, rows_max).iter().map(|s| (s.index, s.rows)).collect()
    }

    #[test]
    fn decode_goes_first_and_prefill_shares_the_rest_by_age() {
        assert_eq!(shares(&[600, 1, 0, 40, 1], 512), [(1, 1), (4, 1), (0, 510)]);
        assert_eq!(shares(&[90, 1, 0, 40], 128), [(1, 1), (0, 90), (3, 37)]);
        assert_eq!(shares(&[0, 0], 512), []);
    }

    proptest! {
        #[test]
        fn no_step_is_too_large_and_none_is_empty_while_rows_are_pending(
            pending in proptest::collection::vec(0usize..900, 0..64), rows_max in 64usize..600
        ) {
            let found = plan(&pending, rows_max);
            prop_assert!(found.iter().map(|s| s.rows).sum::<usize>() <= rows_max);
            prop_assert!(found.iter().all(|s| s.rows > 0 && s.rows <= pending[s.index]));
            prop_assert_eq!(found.is_empty(), pending.iter().all(|&p| p == 0));
            prop_assert!(pending.iter().enumerate().filter(|p| *p.1 == 1).all(|(i, _)| found.iter().any(|s| s.index == i)));
        }
    }
}
