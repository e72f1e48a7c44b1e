//! When a call that is over its budget by the clock is over it indeed.
//!
//! **Contract:** a guest is never ended for what others computed meanwhile: past its budget it may go on until it has computed for as long
//! itself: it is ended at about twice its budget (ticks are whole milliseconds, and the first comes up to 4 ms late), and, where it waits for a processor, at [`ROUNDS_MAX`] times its
//! budget. An instruction on all of a memory at once ends before it is.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Budgets that a call may take by the clock.
const ROUNDS_MAX: u32 = 50;

/// One call's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Overtime {
    budget: Duration,
    /// What its thread had computed when its budget was over by the clock.
    since: Option<Duration>,
    rounds: u32,
}

impl Overtime {
    /// A call that has so long.
    pub fn new(budget_ms: u64) -> Self {
        Self { budget: Duration::from_millis(budget_ms), since: None, rounds: 0 }
    }

    /// Its deadline has passed: milliseconds that it may go on for; `None` where it may not.
    pub fn more(&mut self) -> Option<u64> {
        self.more_at(computed())
    }

    fn more_at(&mut self, computed: Duration) -> Option<u64> {
        self.rounds += 1;
        let since = *self.since.get_or_insert(computed);
        let left = self.budget.checked_sub(computed.saturating_sub(since)).filter(|left| !left.is_zero())?;
        (self.rounds < ROUNDS_MAX).then(|| (left.as_millis() as u64).max(1))
    }
}

/// What this thread has computed.
fn computed() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_computes_is_ended_and_who_waits_is_not_for_long() {
        let at = Duration::from_millis;
        let mut computes = Overtime::new(4);
        assert_eq!(computes.more_at(at(100)), Some(4));
        assert_eq!(computes.more_at(at(103)), Some(1));
        assert_eq!(computes.more_at(at(104)), None);
        let mut waits = Overtime::new(4);
        let rounds = (0..1000).take_while(|_| waits.more_at(at(100)).is_some()).count();
        assert_eq!(rounds as u32, ROUNDS_MAX - 1);
        assert_eq!(Overtime::new(0).more_at(at(1)), None);
    }

    #[test]
    fn what_a_thread_computes_grows_with_what_it_does() {
        let before = computed();
        assert!(std::hint::black_box((0..3_000_000u64).fold(0, |sum, n| sum ^ n.wrapping_mul(n))) != 1);
        assert!(computed() > before);
    }
}
