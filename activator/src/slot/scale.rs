//! How many runtimes a model should have, by how many requests it has had at once: the rule of Knative's pod autoscaler (KPA).
//!
//! Concurrency, of held and of running requests, is averaged over the last [`STABLE`] and over the last [`PANIC`]. As many runtimes are wanted as
//! the longer average needs at so many requests each (`target`). If the shorter one needs at least twice as many as there are, the slot
//! *panics*: for [`STABLE`] after the last such moment it takes the larger number, and gives none back. Otherwise at most half of them are
//! given back at one look. A slot is looked at every [`LOOK`] while it has something to do, and then alone.
//!
//! What differs from KPA: averages begin with the load, not with zeros before it, so that a wake is seen whole at the first look; and the way to
//! zero is the model's `idle` time, not a grace period.
//!
//! **Invariant:** pure. Time is an argument. The first look after a rest comes [`LOOK`] after the load.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// The longer window.
pub const STABLE: Duration = Duration::from_secs(60);

/// The shorter window: a tenth, as KPA's default.
pub const PANIC: Duration = Duration::from_secs(6);

/// From look to look.
pub const LOOK: Duration = Duration::from_secs(2);

/// A stretch of time with one load.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    from: Instant,
    load: usize,
}

/// What one slot has had to do, and what follows.
#[derive(Clone, Debug, Default)]
pub(super) struct Scale {
    /// Oldest first; each lasts until the next, the last until now.
    stretches: VecDeque<Stretch>,
    looked: Option<Instant>,
    /// Since when, at the latest, the slot panics.
    panicked: Option<Instant>,
    desired: usize,
}

/// Stretches that are told apart; beyond that neighbours are taken together.
const STRETCHES_MAX: usize = 256;

impl Scale {
    /// From now on there is this much to do.
    pub fn observe(&mut self, now: Instant, load: usize) {
        match self.stretches.back_mut() {
            None if load == 0 => return,
            Some(last) if last.load == load => return,
            Some(last) if last.from >= now => last.load = load,
            None => {
                self.looked = Some(now);
                self.stretches.push_back(Stretch { from: now, load });
            }
            Some(_) => self.stretches.push_back(Stretch { from: now, load }),
        }
        if self.stretches.len() > STRETCHES_MAX {
            self.coarsen();
        }
    }

    /// Neighbours become one, with their average; what is older than the longer window is no matter.
    fn coarsen(&mut self) {
        let old: Vec<Stretch> = std::mem::take(&mut self.stretches).into();
        let last = old.len() - 1;
        let mut i = 0;
        while i < last {
            let (a, b, end) = (old[i], old[i + 1], old.get(i + 2).map(|next| next.from));
            match end {
                // The last stretch stays as it is: it says what the load is now.
                Some(end) if i + 1 < last => {
                    let (first, whole) = (b.from - a.from, end - a.from);
                    let sum = a.load as f64 * first.as_secs_f64() + b.load as f64 * (whole - first).as_secs_f64();
                    let mean = sum / whole.as_secs_f64().max(1e-9);
                    self.stretches.push_back(Stretch { from: a.from, load: mean.round() as usize });
                    i += 2;
                }
                _ => {
                    self.stretches.push_back(a);
                    i += 1;
                }
            }
        }
        self.stretches.push_back(old[last]);
    }

    /// The mean load of the last `window`, or of the time since there was any, if that is shorter.
    fn mean(&self, window: Duration, now: Instant) -> f64 {
        let Some(first) = self.stretches.front() else { return 0.0 };
        let begin = now.checked_sub(window).map_or(first.from, |begin| begin.max(first.from));
        let ends = self.stretches.iter().skip(1).map(|next| next.from).chain([now]);
        let sum: f64 = self
            .stretches
            .iter()
            .zip(ends)
            .map(|(stretch, end)| {
                stretch.load as f64 * end.saturating_duration_since(stretch.from.max(begin)).as_secs_f64()
            })
            .sum();
        let whole = now.saturating_duration_since(begin).as_secs_f64();
        if whole > 0.0 { sum / whole } else { self.stretches.back().map_or(0.0, |last| last.load as f64) }
    }

    /// When the slot is to be looked at again.
    pub fn deadline(&self) -> Option<Instant> {
        Some(self.looked? + LOOK)
    }

    /// Looks. `there`: runtimes that answer; `target`: requests at once that each is to have.
    pub fn look(&mut self, now: Instant, there: usize, target: f64) {
        self.looked = Some(now);
        while self.stretches.get(1).is_some_and(|next| now.saturating_duration_since(next.from) >= STABLE) {
            self.stretches.pop_front();
        }
        let needed = |window| (self.mean(window, now) / target.max(0.01)).ceil() as usize;
        let (stable, panic) = (needed(STABLE), needed(PANIC));
        if stable == 0 && self.stretches.back().is_none_or(|last| last.load == 0) {
            return self.rest();
        }
        if panic >= 2 * there.max(1) {
            self.panicked = Some(now);
        } else if self.panicked.is_some_and(|at| now.saturating_duration_since(at) >= STABLE) {
            self.panicked = None;
        }
        self.desired = match self.panicked {
            Some(_) => self.desired.max(panic).max(stable),
            None => stable.max(there / 2),
        };
    }

    /// As many runtimes as the last look found to be needed.
    pub fn desired(&self) -> usize {
        self.desired
    }

    /// Nothing has been going on for long.
    pub fn rest(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number desired at each look, when so many requests are there in each of these seconds and each wish comes true at once.
    fn looks(target: f64, load: impl Fn(u64) -> usize, seconds: u64) -> Vec<usize> {
        let (mut scale, start, mut there) = (Scale::default(), Instant::now(), 1);
        let mut seen = Vec::new();
        for second in 0..seconds {
            let now = start + Duration::from_secs(second);
            if scale.deadline().is_some_and(|at| at <= now) {
                scale.look(now, there, target);
                there = scale.desired().max(1);
                seen.push(scale.desired());
            }
            scale.observe(now, load(second));
        }
        seen
    }

    #[test]
    fn a_steady_load_gets_as_many_as_it_needs_and_no_more() {
        let seen = looks(10.0, |_| 35, 200);
        assert!(seen.iter().all(|desired| *desired == 4), "{seen:?}");
        assert!(looks(10.0, |_| 10, 200).iter().all(|desired| *desired == 1));
    }

    #[test]
    fn a_burst_is_answered_within_seconds_and_given_back_a_minute_after_it() {
        // From 5 to 80 requests at once, for 20 s, after 100 s.
        let seen = looks(10.0, |second| if (100..120).contains(&second) { 80 } else { 5 }, 400);
        let at = |second: usize| seen[second / 2 - 1];
        assert_eq!(at(98), 1);
        assert!(at(104) >= 2 && at(106) >= 4 && at(110) == 8, "{seen:?}");
        assert_eq!(at(150), 8, "it panics still");
        assert_eq!(at(240), 1, "{seen:?}");
    }

    #[test]
    fn what_is_given_back_is_half_at_most() {
        let (mut scale, start) = (Scale::default(), Instant::now());
        scale.observe(start, 1);
        scale.look(start + STABLE, 16, 10.0);
        assert_eq!(scale.desired(), 8);
        scale.look(start + STABLE + LOOK, 8, 10.0);
        assert_eq!(scale.desired(), 4);
    }

    #[test]
    fn a_wake_with_thousands_is_seen_whole_at_the_first_look() {
        assert_eq!(looks(10.0, |_| 1000, 4)[0], 100);
    }

    #[test]
    fn nothing_is_looked_at_while_there_is_nothing() {
        let mut scale = Scale::default();
        scale.observe(Instant::now(), 0);
        assert_eq!(scale.deadline(), None);
        scale.observe(Instant::now(), 3);
        assert!(scale.deadline().is_some());
        scale.rest();
        assert_eq!((scale.deadline(), scale.desired()), (None, 0));
    }

    #[test]
    fn means_stay_true_when_many_changes_are_taken_together() {
        let (mut scale, start) = (Scale::default(), Instant::now());
        for n in 0..5_000u64 {
            scale.observe(start + Duration::from_millis(n * 10), if n % 2 == 0 { 10 } else { 30 });
        }
        assert!(scale.stretches.len() <= STRETCHES_MAX + 1);
        let mean = scale.mean(STABLE, start + Duration::from_secs(50));
        assert!((19.0..21.0).contains(&mean), "{mean}");
    }
}
