//! Where runtimes fit: slices, who is on them, who waits for room, and who has to go for whom. Pure.
//!
//! A model needs so many bytes; where that is a guess, a slice with less is taken whole. A runtime goes onto the slice where least is left over, one without another runtime of its model first. Where
//! there is room nowhere, it waits, and who waits longest chooses first: the slice where it costs least to make room. What goes is idle,
//! has been there for [`Rules::residence`], and is not kept; a runtime costs the time that its model takes to start, divided by the seconds that it has
//! been idle, and one. Who has waited for the residence's time in vain, and whose model has no other runtime, may have those that are busy: they
//! finish what they answer and take nothing new. Room that is being made for somebody is nobody else's. Each runtime that goes costs one swap
//! of [`Rules::swaps_per_minute`], so that models which all want in at once do not spend their time on the way.
//!
//! Groups ([`Group`]) say who may not be there at the same time, whatever room there is.
//!
//! **Invariants:** the bytes of those that are on a slice, until their exits have been seen, never exceed it; nobody is evicted but for somebody who
//! fits where they were; who waits is placed once room is there, in the order of waiting for each slice.

mod budget;
mod plan;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use crate::slot::{LaunchId, SlotId};

use budget::Budget;

/// One runtime among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Whose.
    pub slot: SlotId,
    /// Which.
    pub launch: LaunchId,
}

/// What a model needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Of its slice, for each runtime.
    pub bytes: u64,
    /// That is a guess: a slice with less than that is big enough, but for nobody else.
    pub guessed: bool,
    /// Where it may be; `None`: anywhere.
    pub slices: Option<BTreeSet<usize>>,
}

/// Models that have to do with each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// Which.
    pub members: BTreeSet<SlotId>,
    /// They may be there at the same time.
    pub together: bool,
    /// While one of them is there, no model outside of the group is.
    pub alone: bool,
}

/// What keeps models from spending their time on the way in and out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Nobody has to go who has not been ready for so long.
    pub residence: Duration,
    /// So many runtimes have to go in a minute, at most.
    pub swaps_per_minute: u32,
    /// Who may not be there together.
    pub groups: Vec<Group>,
}

impl Default for Rules {
    fn default() -> Self {
        Self { residence: Duration::from_secs(10), swaps_per_minute: 30, groups: Vec::new() }
    }
}

/// What is known of a runtime that has its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupant {
    /// It stays though nobody asks.
    pub kept: bool,
    /// It is on its way out already.
    pub leaving: bool,
    /// Since when it has been ready, if it is.
    pub ready_since: Option<Instant>,
    /// Since when it has had nothing to do, if it has nothing.
    pub idle_since: Option<Instant>,
    /// As long as its model took to start.
    pub start: Duration,
    /// Its model's runtimes that are ready.
    pub ready: usize,
}

/// What becomes of whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// There is room.
    Placed(Key),
    /// None without somebody's going, for one that nobody goes for.
    NoRoom(Key),
    /// There never will be.
    Never(Key, String),
    /// It has to go.
    Evict(Key),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Resident {
    slice: usize,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    key: Key,
    since: Instant,
    surge: bool,
    /// Where room is being made for it.
    target: Option<usize>,
}

/// Slices, and who is on them. See the module.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Bytes, by slice.
    slices: Vec<u64>,
    rules: Rules,
    /// By slot.
    needs: Vec<Need>,
    residents: BTreeMap<Key, Resident>,
    /// Who has waited longest comes first.
    waiting: Vec<Wait>,
    budget: Budget,
    /// When waiting longer may have changed something.
    retry_at: Option<Instant>,
}

impl Placement {
    /// Empty slices of so many bytes.
    pub fn new(slices: Vec<u64>) -> Self {
        Self {
            slices,
            rules: Rules::default(),
            needs: Vec::new(),
            residents: BTreeMap::new(),
            waiting: Vec::new(),
            budget: Budget::default(),
            retry_at: None,
        }
    }

    /// Other needs and rules from now on; who is there stays.
    pub fn configure(&mut self, needs: Vec<Need>, rules: Rules) {
        (self.needs, self.rules) = (needs, rules);
        // What was thought out under other rules is thought out again.
        self.waiting.iter_mut().for_each(|wait| wait.target = None);
    }

    /// Room is wished for. [`Placement::plan`] says what becomes of it.
    pub fn ask(&mut self, key: Key, surge: bool, now: Instant) {
        self.waiting.push(Wait { key, since: now, surge, target: None });
    }

    /// It is gone, or does not want any more.
    pub fn release(&mut self, key: Key) {
        self.residents.remove(&key);
        self.waiting.retain(|wait| wait.key != key);
    }

    /// Where it is.
    pub fn slice_of(&self, key: Key) -> Option<usize> {
        self.residents.get(&key).map(|resident| resident.slice)
    }

    /// Whether anybody waits for room.
    pub fn is_wanted(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// When [`Placement::plan`] may find something though nothing has happened.
    pub fn deadline(&self) -> Option<Instant> {
        self.retry_at.filter(|_| self.is_wanted())
    }

    /// Who is on which slice, and what they take of it in bytes, in the order of their slots.
    pub fn residents(&self) -> impl Iterator<Item = (SlotId, usize, u64)> {
        self.residents.iter().map(|(key, resident)| (key.slot, resident.slice, resident.bytes))
    }

    /// Bytes that are taken, by slice.
    pub fn used(&self) -> Vec<u64> {
        (0..self.slices.len()).map(|slice| self.bytes_on(slice, |_| true)).collect()
    }

    fn need(&self, slot: SlotId) -> Need {
        self.needs.get(slot.0).cloned().unwrap_or_default()
    }

    /// What a runtime with this need takes of this slice.
    fn takes(&self, need: &Need, slice: usize) -> u64 {
        if need.guessed { need.bytes.min(self.slices[slice]) } else { need.bytes }
    }

    fn bytes_on(&self, slice: usize, counts: impl Fn(&Key) -> bool) -> u64 {
        let there = self.residents.iter().filter(|(key, resident)| resident.slice == slice && counts(key));
        there.fold(0, |sum, (_, resident)| sum.saturating_add(resident.bytes))
    }

    /// Whether these two models may not be there at the same time.
    fn conflict(&self, one: SlotId, other: SlotId) -> bool {
        one != other
            && self.rules.groups.iter().any(|group| {
                match (group.members.contains(&one), group.members.contains(&other)) {
                    (true, true) => !group.together,
                    (true, false) | (false, true) => group.alone,
                    (false, false) => false,
                }
            })
    }
}

#[cfg(test)]
mod tests;
