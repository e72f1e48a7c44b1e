//! Who is held, and who comes next: fair between tenants by weight, in order of priority, and nobody for ever.
//!
//! Each tenant has one line, first come first served. Between lines the one comes next whose turn is due: a turn of a line of weight *w* lasts
//! 1/*w* in a time of its own (start-time fair queueing, Goyal, Vin and Cheng 1996), so that with lines that never run dry each gets its share,
//! and one that comes back from a pause has no debt and no credit. A higher priority goes first, but a line gains one step of priority for each
//! [`AGEING`] that it has waited for a turn. Who was let in before and has lost its runtime comes before all.
//!
//! **Invariant:** pure. Time is an argument.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use super::{Prefixes, RequestId};

/// As long as this a line waits for each step of priority that it gains.
pub const AGEING: Duration = Duration::from_secs(5);

/// A turn of weight 1.
const TURN: u64 = 1 << 20;

/// The largest weight; shorter turns would be none.
pub const WEIGHT_MAX: u32 = 10_000;

/// Who asks, in the order of the configuration's tenants; one that is gone keeps its number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(pub u32);

/// What a request claims of its model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Who asks.
    pub tenant: TenantId,
    /// Its share, from 1 to [`WEIGHT_MAX`].
    pub weight: u32,
    /// Higher goes first.
    pub priority: u8,
    /// Requests of its tenant that may wait for one model.
    pub hold_max: usize,
    /// Of no use later.
    pub deadline: Instant,
    /// What its prompt begins with.
    pub prefixes: Prefixes,
}

#[derive(Clone, Debug)]
struct Line {
    weight: u32,
    priority: u8,
    /// When its next turn begins, in turns' own time.
    due: u64,
    /// When it had its last turn; before that, when its head came.
    served: Option<Instant>,
    waiting: BTreeMap<RequestId, Instant>,
}

/// Everybody who waits for one model.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    /// First of all.
    returned: BTreeSet<RequestId>,
    lines: BTreeMap<TenantId, Line>,
    /// The earliest turn that is due.
    now: u64,
    len: usize,
}

impl Queue {
    /// How many wait, those that lost their runtime included.
    pub fn len(&self) -> usize {
        self.len + self.returned.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of a tenant wait.
    pub fn of(&self, tenant: TenantId) -> usize {
        self.lines.get(&tenant).map_or(0, |line| line.waiting.len())
    }

    /// At the end of its tenant's line.
    pub fn push(&mut self, request: RequestId, claim: &Claim, now: Instant) {
        let line = self.lines.entry(claim.tenant).or_insert_with(|| Line {
            weight: claim.weight,
            priority: claim.priority,
            due: 0,
            served: None,
            waiting: BTreeMap::new(),
        });
        // A tenant's newest terms count.
        (line.weight, line.priority) = (claim.weight.clamp(1, WEIGHT_MAX), claim.priority);
        if line.waiting.is_empty() {
            line.due = line.due.max(self.now);
            line.served = None;
        }
        line.waiting.insert(request, now);
        self.len += 1;
    }

    /// Before everybody else.
    pub fn push_first(&mut self, request: RequestId) {
        self.returned.insert(request);
    }

    /// Who comes next.
    pub fn pop(&mut self, now: Instant) -> Option<RequestId> {
        if let Some(request) = self.returned.pop_first() {
            return Some(request);
        }
        // Waiting makes nobody more than the first among those who wait: between equals their turns decide.
        let waiting = self.lines.values().filter(|line| !line.waiting.is_empty());
        let highest = waiting.map(|line| u64::from(line.priority)).max()?;
        let turn = |(tenant, line): (&TenantId, &Line)| {
            let (head, since) = line.waiting.first_key_value()?;
            // Not its head's age alone: a long line that is served all the time does not age.
            let since = line.served.map_or(*since, |served| served.max(*since));
            let aged = now.saturating_duration_since(since).as_secs() / AGEING.as_secs();
            Some((((u64::from(line.priority) + aged).min(highest), Reverse(line.due), Reverse(*head)), *tenant))
        };
        let (_, tenant) = self.lines.iter().filter_map(turn).max()?;
        let line = self.lines.get_mut(&tenant)?;
        let (request, _) = line.waiting.pop_first()?;
        line.due += TURN / u64::from(line.weight);
        line.served = Some(now);
        let just_served = line.due;
        // Turns taken early, by priority, do not move the others' time: it is that of whoever is furthest behind.
        let waiting = self.lines.values().filter(|line| !line.waiting.is_empty()).map(|line| line.due).min();
        self.now = self.now.max(waiting.unwrap_or(just_served));
        self.len -= 1;
        self.forget();
        Some(request)
    }

    /// Whether it waited.
    pub fn remove(&mut self, request: RequestId) -> bool {
        if self.returned.remove(&request) {
            return true;
        }
        let removed = self.lines.values_mut().any(|line| line.waiting.remove(&request).is_some());
        self.len -= usize::from(removed);
        removed
    }

    /// Everybody, in no order that means anything.
    pub fn take(&mut self) -> Vec<RequestId> {
        let queue = std::mem::take(self);
        queue.returned.into_iter().chain(queue.lines.into_values().flat_map(|line| line.waiting.into_keys())).collect()
    }

    /// Lines without anybody and without a debt are no different from none.
    fn forget(&mut self) {
        let now = self.now;
        self.lines.retain(|_, line| !line.waiting.is_empty() || line.due > now);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn claim(tenant: u32, weight: u32, priority: u8) -> Claim {
        let deadline = Instant::now() + Duration::from_secs(60);
        Claim { tenant: TenantId(tenant), weight, priority, hold_max: usize::MAX, deadline, prefixes: Vec::new() }
    }

    /// How many of each tenant are among the first `first`, when each has sent `each` at once, one tenant after the other.
    fn first(claims: &[Claim], each: u64, first: usize) -> Vec<usize> {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for (i, claim) in claims.iter().enumerate() {
            (0..each).for_each(|n| queue.push(RequestId(i as u64 * each + n), claim, now));
        }
        let mut counts = vec![0; claims.len()];
        for _ in 0..first {
            counts[(queue.pop(now).unwrap().0 / each) as usize] += 1;
        }
        counts
    }

    #[test]
    fn shares_are_as_the_weights() {
        assert_eq!(first(&[claim(0, 1, 0), claim(1, 1, 0)], 100, 50), [25, 25]);
        assert_eq!(first(&[claim(0, 3, 0), claim(1, 1, 0)], 100, 80), [60, 20]);
        assert_eq!(first(&[claim(0, 1, 0), claim(1, 2, 0), claim(2, 5, 0)], 100, 80), [10, 20, 50]);
    }

    #[test]
    fn priority_goes_first_until_the_others_have_waited_long_enough() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        queue.push(RequestId(0), &claim(0, 1, 0), start);
        let later = start + AGEING * 3;
        (1..=2).for_each(|n| queue.push(RequestId(n), &claim(1, 1, 2), later));
        // Three steps gained are as good as two, and it came first.
        assert_eq!(queue.pop(later), Some(RequestId(0)));
        queue.push(RequestId(3), &claim(0, 1, 0), later);
        assert_eq!([queue.pop(later), queue.pop(later), queue.pop(later)], [1, 2, 3].map(|n| Some(RequestId(n))));
        assert_eq!(queue.pop(later), None);
    }

    #[test]
    fn a_flood_that_came_first_does_not_keep_others_waiting_for_its_end() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        (0..1000).for_each(|n| queue.push(RequestId(n), &claim(0, 1, 0), start));
        let mut now = start + Duration::from_secs(6);
        (1000..1100).for_each(|n| queue.push(RequestId(n), &claim(1, 1, 0), now));
        let of_the_second = (0..100)
            .filter(|_| {
                now += Duration::from_secs(1);
                queue.pop(now).unwrap().0 >= 1000
            })
            .count();
        assert!((45..=55).contains(&of_the_second), "{of_the_second}");
    }

    #[test]
    fn shares_are_as_the_weights_however_long_turns_take() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        for tenant in 0..2 {
            let claim = claim(tenant, if tenant == 0 { 3 } else { 1 }, 0);
            (0..100).for_each(|n| queue.push(RequestId(u64::from(tenant) * 100 + n), &claim, now));
        }
        let of_the_first = (0..40)
            .filter(|_| {
                now += AGEING * 2;
                queue.pop(now).unwrap().0 < 100
            })
            .count();
        assert_eq!(of_the_first, 30);
    }

    #[test]
    fn turns_taken_by_priority_do_not_change_the_shares_of_the_others() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        (0..100).for_each(|n| queue.push(RequestId(n), &claim(0, 1, 9), now));
        (100..200).for_each(|n| queue.push(RequestId(n), &claim(1, 1, 0), now));
        (0..100).for_each(|_| assert!(queue.pop(now).unwrap().0 < 100));
        (200..300).for_each(|n| queue.push(RequestId(n), &claim(2, 1, 0), now));
        let of_the_last = (0..40).filter(|_| queue.pop(now).unwrap().0 >= 200).count();
        assert!((19..=21).contains(&of_the_last), "{of_the_last}");
    }

    #[test]
    fn who_comes_back_from_a_pause_has_neither_credit_nor_debt() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        (0..100).for_each(|n| queue.push(RequestId(n), &claim(0, 1, 0), now));
        (0..50).for_each(|_| assert!(queue.pop(now).is_some()));
        (100..200).for_each(|n| queue.push(RequestId(n), &claim(1, 1, 0), now));
        let of_the_second = (0..20).filter(|_| queue.pop(now).unwrap().0 >= 100).count();
        assert!((9..=11).contains(&of_the_second), "{of_the_second}");
    }

    #[test]
    fn who_lost_its_runtime_comes_before_all() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.push(RequestId(0), &claim(0, 1, 9), now);
        queue.push_first(RequestId(7));
        assert_eq!((queue.len(), queue.pop(now)), (2, Some(RequestId(7))));
    }

    proptest! {
        #[test]
        fn everybody_comes_once_or_left(steps in prop::collection::vec((0u32..5, 1u32..9, 0u8..3, 0u8..4), 0..200)) {
            let (mut queue, start) = (Queue::default(), Instant::now());
            let (mut waiting, mut next) = (BTreeSet::new(), 0);
            for (n, (tenant, weight, priority, what)) in steps.into_iter().enumerate() {
                let now = start + Duration::from_secs(n as u64);
                match what {
                    0 => {
                        let popped = queue.pop(now);
                        prop_assert_eq!(popped.is_some(), !waiting.is_empty());
                        popped.iter().for_each(|request| assert!(waiting.remove(request)));
                    }
                    1 => prop_assert_eq!(queue.remove(RequestId(next / 2)), waiting.remove(&RequestId(next / 2))),
                    2 => {
                        queue.push_first(RequestId(next));
                        waiting.insert(RequestId(next));
                        next += 1;
                    }
                    _ => {
                        queue.push(RequestId(next), &claim(tenant, weight, priority), now);
                        waiting.insert(RequestId(next));
                        next += 1;
                    }
                }
                prop_assert_eq!(queue.len(), waiting.len());
            }
            prop_assert_eq!(queue.take().into_iter().collect::<BTreeSet<_>>(), waiting);
            prop_assert!(queue.is_empty());
        }
    }
}
