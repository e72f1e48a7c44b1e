//! How many runtimes may still have to go: a bucket that fills with time.
//!
//! **Invariant:** pure. No more than a minute's swaps at once, and no more than those in any minute after it.

use std::time::{Duration, Instant};

/// See the module.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Budget {
    /// Swaps that were taken and have not been forgiven, and when that was so.
    taken: Option<(f64, Instant)>,
}

impl Budget {
    fn taken(&self, per_minute: u32, now: Instant) -> f64 {
        self.taken.map_or(0.0, |(taken, at)| {
            (taken - now.saturating_duration_since(at).as_secs_f64() * f64::from(per_minute) / 60.0).max(0.0)
        })
    }

    /// Takes so many, if they are there; of more than there can be, all must be.
    pub fn take(&mut self, swaps: usize, per_minute: u32, now: Instant) -> bool {
        let (taken, swaps, all) = (self.taken(per_minute, now), swaps as f64, f64::from(per_minute));
        let enough = swaps == 0.0 || taken + swaps.min(all) <= all + 1e-6;
        if enough && swaps > 0.0 {
            self.taken = Some((taken + swaps, now));
        }
        enough
    }

    /// When one more will be there.
    pub fn next(&self, per_minute: u32, now: Instant) -> Instant {
        let missing = self.taken(per_minute, now) + 1.0 - f64::from(per_minute);
        // A millisecond more, so that it is there then whatever was rounded.
        now + Duration::from_secs_f64((missing.max(0.0) * 60.0 / f64::from(per_minute.max(1))).min(3600.0))
            + Duration::from_millis(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minutes_swaps_can_be_taken_at_once_and_come_back_one_by_one() {
        let (mut budget, start) = (Budget::default(), Instant::now());
        assert!((0..6).all(|_| budget.take(1, 6, start)));
        assert!(!budget.take(1, 6, start) && budget.take(0, 6, start));
        let next = budget.next(6, start);
        assert!((9_900..10_200).contains(&(next - start).as_millis()));
        assert!(budget.take(1, 6, next) && !budget.take(1, 6, next));
    }

    #[test]
    fn more_than_there_ever_are_need_all() {
        let (mut budget, start) = (Budget::default(), Instant::now());
        assert!(budget.take(1, 2, start));
        assert!(!budget.take(5, 2, start + Duration::from_secs(10)));
        assert!(budget.take(5, 2, start + Duration::from_secs(31)));
        assert!(!budget.take(1, 2, start + Duration::from_secs(60)), "and are paid back");
    }
}
