//! Standbys: launched processes that wait for a model.
//!
//! **Invariant:** one that is taken is replaced, but never while a slot starts, and after a failure only after a back-off.

use std::time::Instant;

use super::{
    Scaler,
    life::{Life, LifeId, Role},
};
use crate::slot::back_off;

/// How many standbys are wanted, and when the next may be tried after one failed.
#[derive(Debug)]
pub(super) struct Standby {
    pub(super) wanted: usize,
    pub(super) failures: u32,
    pub(super) retry_at: Option<Instant>,
}

impl Scaler {
    /// A standby for this role, if there is one on that slice.
    pub(super) fn take_standby(&mut self, role: Role, slice: Option<usize>) -> Option<LifeId> {
        let standby = |life: &Life| matches!(life.role, Role::Standby { .. }) && life.slice == slice;
        let standbys = self.lives.iter_mut().filter(|(_, life)| standby(life));
        // A launched one before one that still starts.
        let (id, life) = standbys.min_by_key(|(id, life)| (life.times.launched.is_none(), **id))?;
        life.role = role;
        life.was_standby = true;
        Some(*id)
    }

    /// Starts the standbys that are missing; not while a slot starts, which has better use for the processors.
    pub(super) async fn replenish_standbys(&mut self) {
        let now = Instant::now();
        self.standby.retry_at = self.standby.retry_at.filter(|at| now < *at);
        if self.closing || self.standby.wanted == 0 || self.standby.retry_at.is_some() || self.starting > 0 {
            return;
        }
        let there = self.lives.values().filter(|life| matches!(life.role, Role::Standby { .. })).count();
        for _ in there..self.standby.wanted {
            let slice = self.slice_for_standby();
            if let Err(error) = self.begin(Role::Standby { give_up_at: Some(now + self.start_timeout) }, slice).await {
                tracing::warn!(%error, "cannot launch a standby");
                return self.standby.failed(now);
            }
        }
    }

    /// Where most is free, of those slices with the fewest standbys: a process sees its slice alone, from its beginning on.
    fn slice_for_standby(&self) -> Option<usize> {
        let used = self.fleet.used();
        let standbys = |slice: usize| {
            let there = self.lives.values().filter(|life| matches!(life.role, Role::Standby { .. }));
            there.filter(|life| life.slice == Some(slice)).count()
        };
        let free = |slice: usize| self.slices[slice].bytes.saturating_sub(used[slice]);
        (0..self.slices.len()).min_by_key(|slice| (standbys(*slice), std::cmp::Reverse(free(*slice))))
    }

    /// Kills a standby; its exit will be seen.
    pub(super) fn dismiss(&mut self, id: LifeId) {
        if let Some(life) = self.lives.get_mut(&id) {
            life.role = Role::Dismissed;
            life.child.kill();
        }
    }
}

impl Standby {
    pub(super) fn new(wanted: usize) -> Self {
        Self { wanted, failures: 0, retry_at: None }
    }

    /// One failed to start, or ended before it was needed.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(now + back_off(self.failures));
    }
}
