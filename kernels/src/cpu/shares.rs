//! A row of units dealt out to threads: each has neighbours, which it takes from the front; who has done his own takes from the
//! back of another's.
//!
//! **Invariant:** after [`Shares::deal`], each unit is taken once. What lies behind a unit in memory is mostly taken next by the
//! same thread, so that a stream of weights goes on.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::*};

/// What is left of one share: `first << 32 | end`, on a cache line of its own.
#[repr(align(64))]
struct Left(AtomicU64);

pub(super) struct Shares(Box<[Left]>);

impl Shares {
    pub fn new(threads: usize) -> Self {
        Self((0..threads).map(|_| Left(AtomicU64::new(0))).collect())
    }

    /// Deals `0..units` out, in whole grains but for the last. Nobody takes meanwhile.
    pub fn deal(&self, units: usize, grain: usize) {
        assert!(u32::try_from(units).is_ok(), "more units than are ever needed");
        let grains = units.div_ceil(grain);
        let border = |share: usize| units.min(grains * share / self.0.len() * grain);
        for (i, left) in self.0.iter().enumerate() {
            left.0.store(packed(&(border(i)..border(i + 1))), Relaxed);
        }
    }

    /// At most `grain` units of share `mine`, else of another; `None` where none are left.
    pub fn take(&self, mine: usize, grain: usize) -> Option<Range<usize>> {
        let front = |left: Range<usize>| {
            let border = left.start + grain.min(left.len());
            (left.start..border, border..left.end)
        };
        let back = |left: Range<usize>| {
            let border = left.end - grain.min(left.len());
            (border..left.end, left.start..border)
        };
        let mut others = (mine + 1..self.0.len()).chain(0..mine);
        self.0[mine].take(front).or_else(|| others.find_map(|other| self.0[other].take(back)))
    }
}

fn packed(left: &Range<usize>) -> u64 {
    (left.start as u64) << 32 | left.end as u64
}

impl Left {
    /// Takes what `part` says of what is left; it also says what is left then.
    fn take(&self, part: impl Fn(Range<usize>) -> (Range<usize>, Range<usize>)) -> Option<Range<usize>> {
        let mut now = self.0.load(Relaxed);
        loop {
            let left = (now >> 32) as usize..(now & u64::from(u32::MAX)) as usize;
            if left.is_empty() {
                return None;
            }
            let (taken, left) = part(left);
            match self.0.compare_exchange_weak(now, packed(&left), Relaxed, Relaxed) {
                Ok(_) => return Some(taken),
                Err(other) => now = other,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_unit_is_taken_once_and_first_by_its_owner() {
        for (threads, units, grain) in [(1, 7, 2), (2, 36, 4), (3, 5, 4), (4, 0, 1), (5, 100, 7)] {
            let shares = Shares::new(threads);
            for _ in 0..2 {
                shares.deal(units, grain);
                let mut taken = vec![0; units];
                for i in 0.. {
                    let Some(range) = shares.take(i % threads, grain) else { break };
                    assert!((1..=grain).contains(&range.len()));
                    taken[range].iter_mut().for_each(|times| *times += 1);
                }
                assert!(taken.iter().all(|times| *times == 1), "{threads} threads, {units} units");
            }
        }
        let shares = Shares::new(2);
        shares.deal(8, 2);
        let takes: Vec<_> = (0..4).filter_map(|_| shares.take(1, 2)).collect();
        assert_eq!(takes, [4..6, 6..8, 2..4, 0..2], "its own in order, then another's from the end");
    }
}
