//! How long things took, to tell what cannot be done in time.
//!
//! **Invariant:** a guess that errs on the early side; nothing measured yet is no time at all.

use std::time::Duration;

/// A new measurement counts for one part in so many.
const WEIGHT: u32 = 8;

/// What one slot has measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pace {
    /// The last launch that became ready, from its beginning.
    pub start: Option<Duration>,
    /// One answer, from being let through to its end; smoothed.
    answer: Option<Duration>,
}

impl Pace {
    /// An answer took so long.
    pub fn answered(&mut self, took: Duration) {
        self.answer = Some(self.answer.map_or(took, |mean| (mean * (WEIGHT - 1) + took) / WEIGHT));
    }

    /// How long it takes until a place is free for one that comes behind `ahead` others, `busy` of `places` being taken.
    pub fn wait(&self, ahead: usize, busy: usize, places: usize) -> Duration {
        let free = places.saturating_sub(busy);
        if ahead < free {
            return Duration::ZERO;
        }
        // All places come free in the time of one answer; the first of them, on average, after its share of that.
        let turns = (ahead - free + 1) as f64 / places.max(1) as f64;
        self.answer.unwrap_or_default().mul_f64(turns.min(1e6))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_waits_for_those_before_it() {
        let mut pace = Pace::default();
        assert_eq!(pace.wait(100, 1, 1), Duration::ZERO, "nothing is known");
        pace.answered(Duration::from_secs(8));
        assert_eq!(pace.wait(0, 0, 1), Duration::ZERO);
        assert_eq!(pace.wait(0, 1, 1), Duration::from_secs(8));
        assert_eq!(pace.wait(3, 4, 4), Duration::from_secs(8));
        assert_eq!(pace.wait(3, 0, 4), Duration::ZERO);
        assert_eq!(pace.wait(usize::MAX / 2, usize::MAX, usize::MAX), Duration::from_secs(4));
        pace.answered(Duration::ZERO);
        assert_eq!(pace.wait(0, 1, 1), Duration::from_secs(7));
    }
}
