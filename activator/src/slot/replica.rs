//! One runtime of a slot, from the wish for it to its exit.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Instant,
};

use super::{Failure, RequestId};

/// Beginnings of prompts that are remembered of each runtime.
const PREFIXES_MAX: usize = 1024;

/// The hashes of a prompt's beginnings, the shortest first; empty where nobody will ask for them.
pub type Prefixes = Vec<u64>;

/// One runtime.
#[derive(Clone, Debug)]
pub struct Replica {
    /// Where it is in its life.
    pub stage: Stage,
    /// It runs another snapshot than the one that is there now, and is to be succeeded.
    pub stale: bool,
}

impl Replica {
    /// It answers, and nothing is to succeed it.
    pub(super) fn answers_on(&self) -> bool {
        !self.stale && matches!(self.stage, Stage::Ready(_))
    }
}

/// Where a runtime is in its life.
#[derive(Clone, Debug)]
pub enum Stage {
    /// No process yet: there is no room for it.
    Placing {
        /// If there is none at once, what is stale makes it.
        surge: bool,
    },
    /// A process is on its way to its first token, or about to be started.
    Starting {
        /// Since when.
        began: Instant,
        /// Killed if not ready by then.
        give_up_at: Instant,
    },
    /// Requests go straight through.
    Ready(Ready),
    /// The process has been told to end, or is being killed; it is alive until its exit is seen.
    Draining {
        /// Killed if it has not exited by then; `None` once that has been done.
        give_up_at: Option<Instant>,
        /// Why it ends, if it was never ready.
        failure: Option<Failure>,
    },
}

/// What is known of a runtime that answers.
#[derive(Clone, Debug)]
pub struct Ready {
    /// Who is being answered, since when.
    pub in_flight: BTreeMap<RequestId, Instant>,
    /// When the last of them ended; meaningful while there is none.
    pub idle_since: Instant,
    /// Since when it is ready.
    pub since: Instant,
    /// Beginnings of what it has answered, the newest last.
    prefixes: VecDeque<u64>,
}

impl Ready {
    /// From now on.
    pub fn new(now: Instant) -> Self {
        Self { in_flight: BTreeMap::new(), idle_since: now, since: now, prefixes: VecDeque::new() }
    }

    /// How many of a prompt's beginnings it has answered before: its keys and values are likely there.
    pub fn knows(&self, prefixes: &[u64]) -> usize {
        prefixes.iter().rposition(|prefix| self.prefixes.contains(prefix)).map_or(0, |index| index + 1)
    }

    /// It answers one that begins like this.
    pub fn learn(&mut self, prefixes: &[u64]) {
        for prefix in prefixes {
            if let Some(known) = self.prefixes.iter().position(|known| known == prefix) {
                self.prefixes.remove(known);
            }
            self.prefixes.push_back(*prefix);
        }
        let surplus = self.prefixes.len().saturating_sub(PREFIXES_MAX);
        self.prefixes.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_beginning_counts_and_the_oldest_is_forgotten() {
        let mut ready = Ready::new(Instant::now());
        assert_eq!(ready.knows(&[1, 2, 3]), 0);
        ready.learn(&[1, 2]);
        assert_eq!([ready.knows(&[1, 2, 3]), ready.knows(&[1, 5]), ready.knows(&[7, 2])], [2, 1, 2]);
        ready.learn(&(100..100 + PREFIXES_MAX as u64 - 1).collect::<Vec<_>>());
        assert_eq!([ready.knows(&[1]), ready.knows(&[2])], [0, 1]);
        ready.learn(&[2]);
        ready.learn(&[9]);
        assert_eq!([ready.knows(&[2]), ready.knows(&[100])], [1, 0]);
    }
}
