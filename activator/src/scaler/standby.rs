//! Standbys: launched processes that wait for a model.
//!
//! **Invariant:** one that is taken is replaced, but never while a slot starts, nor for a moment after that, and after a failure only after a back-off.

use std::{
    ffi::OsString,
    time::{Duration, Instant},
};

use super::{
    Scaler,
    life::{Life, LifeId, Role},
};
use crate::slot::back_off;

/// How long after a slot has become ready no standby is launched: those who were held have better use for the processors.
const QUIET: Duration = Duration::from_millis(300);

/// How many standbys are wanted, and when the next may be tried.
#[derive(Debug)]
pub(super) struct Standby {
    pub(super) wanted: usize,
    /// What each has ready for an encrypted snapshot.
    pub(super) memory_bytes: u64,
    pub(super) failures: u32,
    pub(super) not_before: Option<Instant>,
    quiet: Quiet,
}

/// Whether a replacement waits for those who were held to have their first tokens.
#[derive(Debug)]
enum Quiet {
    /// Nobody has become ready since all standbys were there.
    No,
    /// It waits.
    Until(Instant),
    /// It has waited, and does not do so again: there is always somebody who becomes ready.
    Over,
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
        self.standby.not_before = self.standby.not_before.filter(|at| now < *at);
        if matches!(self.standby.quiet, Quiet::Until(at) if at <= now) {
            self.standby.quiet = Quiet::Over;
        }
        if self.closing || self.standby.wanted == 0 || self.standby.deadline().is_some() || self.starting > 0 {
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
        self.standby.quiet = Quiet::No;
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
    pub(super) fn new(wanted: usize, memory_bytes: u64) -> Self {
        Self { wanted, memory_bytes, failures: 0, not_before: None, quiet: Quiet::No }
    }

    /// What one is told that a runtime with a model at once is not.
    pub(super) fn arguments(&self) -> Vec<OsString> {
        let memory = (self.memory_bytes > 0).then(|| ["--ready-memory".into(), self.memory_bytes.to_string()]);
        memory.into_iter().flatten().chain(["--waits".into()]).map(OsString::from).collect()
    }

    /// One failed to start, or ended before it was needed.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.not_before = self.not_before.max(Some(now + back_off(self.failures)));
    }

    /// A slot has become ready.
    pub(super) fn keep_quiet(&mut self, now: Instant) {
        if self.wanted > 0 && matches!(self.quiet, Quiet::No) {
            self.quiet = Quiet::Until(now + QUIET);
        }
    }

    /// Until when nothing is launched, whatever happens.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let quiet = if let Quiet::Until(at) = self.quiet { Some(at) } else { None };
        self.not_before.max(quiet)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_is_told_that_it_waits_and_how_much_memory_to_have() {
        assert_eq!(Standby::new(1, 0).arguments(), ["--waits"]);
        assert_eq!(Standby::new(1, 4096).arguments(), ["--ready-memory", "4096", "--waits"]);
    }
}
