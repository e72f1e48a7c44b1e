//! All slots and the room that they share, as one pure state machine: what happens to one slot, and what follows for the others.
//!
//! **Invariants:** a launch is begun only where there is room for it, and holds that until its exit has been seen; whatever a slot asks of the
//! placement is answered before anything else happens, or when something has changed. Time is an argument; [`Effect`]s are data, and of them
//! [`Effect::Place`] and [`Effect::Release`] are dealt with here.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use crate::{
    placement::{Decision, Key, Need, Occupant, Placement, Rules},
    slot::{Effect, Event, Failure, LaunchId, Policy, Slot, SlotId, Stage},
};

/// Every slot. See the module.
#[derive(Clone, Debug)]
pub struct Fleet {
    slots: Vec<Slot>,
    placement: Placement,
    /// When slots are to be looked at, the nearest first: thousands of cold ones cost nothing. Never later than a slot's deadline, and sooner where
    /// that has moved: with each request it does, and most deadlines never come.
    looks: BTreeSet<(Instant, usize)>,
    /// The same by slot.
    noted: Vec<Option<Instant>>,
}

/// What follows from something that happened. Of most it is little, and takes no memory of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Turned {
    /// What is to be done, in order.
    pub effects: SmallVec<[(SlotId, Effect); 2]>,
    /// Slots that something happened to, some of them twice.
    pub touched: SmallVec<[SlotId; 2]>,
    /// Runtimes that have to go for others.
    pub evicted: Vec<Key>,
}

impl Fleet {
    /// No slot yet, and slices of so many bytes.
    pub fn new(slices: Vec<u64>) -> Self {
        Self { slots: Vec::new(), placement: Placement::new(slices), looks: BTreeSet::new(), noted: Vec::new() }
    }

    /// One more slot, cold.
    pub fn add(&mut self, policy: Policy) -> SlotId {
        self.slots.push(Slot::new(policy));
        self.noted.push(None);
        SlotId(self.slots.len() - 1)
    }

    /// A slot.
    pub fn slot(&self, slot: SlotId) -> &Slot {
        &self.slots[slot.0]
    }

    /// Every slot.
    pub fn slots(&self) -> impl Iterator<Item = (SlotId, &Slot)> {
        self.slots.iter().enumerate().map(|(i, slot)| (SlotId(i), slot))
    }

    /// Where a runtime is.
    pub fn slice_of(&self, slot: SlotId, launch: LaunchId) -> Option<usize> {
        self.placement.slice_of(Key { slot, launch })
    }

    /// Who is on which slice, and what they take of it in bytes, in the order of their slots.
    pub fn residents(&self) -> impl Iterator<Item = (SlotId, usize, u64)> {
        self.placement.residents()
    }

    /// Bytes that are taken, by slice.
    pub fn used(&self) -> Vec<u64> {
        self.placement.used()
    }

    /// What models need, by slot, and under which rules, from now on. [`Fleet::tick`] says what follows.
    pub fn configure(&mut self, needs: Vec<Need>, rules: Rules) {
        self.placement.configure(needs, rules);
    }

    /// When [`Fleet::tick`] may next find something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.looks.first().map(|(at, _)| *at).into_iter().chain(self.placement.deadline()).min()
    }

    /// Something happens to a slot.
    pub fn happen(&mut self, slot: SlotId, event: Event, now: Instant) -> Turned {
        let mut turned = Turned::default();
        self.turn(slot, event, now, &mut turned);
        self.settle(VecDeque::new(), now, turned)
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Instant) -> Turned {
        let due = self.looks.iter().take_while(|(at, _)| *at <= now).map(|(_, slot)| *slot);
        let events = due.map(|slot| (SlotId(slot), Event::Tick)).collect();
        self.settle(events, now, Turned::default())
    }

    /// These, and whatever follows for whom.
    fn settle(&mut self, mut events: VecDeque<(SlotId, Event)>, now: Instant, mut turned: Turned) -> Turned {
        loop {
            while let Some((slot, event)) = events.pop_front() {
                self.turn(slot, event, now, &mut turned);
            }
            if !self.placement.is_wanted() {
                return turned;
            }
            events.extend(self.decide(now, &mut turned));
            if events.is_empty() {
                return turned;
            }
        }
    }

    /// One event into one slot.
    fn turn(&mut self, slot: SlotId, event: Event, now: Instant, turned: &mut Turned) {
        let place = &mut self.slots[slot.0];
        let effects = place.next(event, now);
        let due = place.deadline();
        let noted = &mut self.noted[slot.0];
        let sooner = due.is_some_and(|due| noted.is_none_or(|noted| due < noted));
        if sooner || noted.is_some_and(|noted| noted <= now) {
            noted.map(|at| self.looks.remove(&(at, slot.0)));
            due.map(|at| self.looks.insert((at, slot.0)));
            *noted = due;
        }
        if turned.touched.last() != Some(&slot) {
            turned.touched.push(slot);
        }
        for effect in effects {
            match effect {
                Effect::Place { launch, surge } => self.placement.ask(Key { slot, launch }, surge, now),
                Effect::Release(launch) => self.placement.release(Key { slot, launch }),
                effect => turned.effects.push((slot, effect)),
            }
        }
    }

    /// What becomes of those who wait for room.
    fn decide(&mut self, now: Instant, turned: &mut Turned) -> Vec<(SlotId, Event)> {
        let slots = &self.slots;
        let decisions = self.placement.plan(now, |key| occupant(&slots[key.slot.0], key.launch));
        let event = |decision| match decision {
            Decision::Placed(key) => (key.slot, Event::Placed(key.launch)),
            Decision::NoRoom(key) => (key.slot, Event::NoRoom(key.launch)),
            Decision::Never(key, why) => (key.slot, Event::NotLaunched(key.launch, Failure::unsupported(why))),
            Decision::Evict(key) => {
                turned.evicted.push(key);
                (key.slot, Event::Evicted(key.launch))
            }
        };
        decisions.into_iter().map(event).collect()
    }
}

/// What the placement is to know of a runtime.
fn occupant(slot: &Slot, launch: LaunchId) -> Occupant {
    let ready = slot.ready_count();
    let start = slot.start_took().unwrap_or(Duration::from_secs(1));
    let occupant = Occupant { kept: slot.min() >= ready.max(1), start, ready, ..Occupant::default() };
    match slot.stage(launch) {
        Some(Stage::Ready(of)) => Occupant {
            ready_since: Some(of.since),
            idle_since: of.in_flight.is_empty().then_some(of.idle_since),
            ..occupant
        },
        Some(Stage::Draining { .. }) => Occupant { leaving: true, ..occupant },
        Some(Stage::Placing { .. } | Stage::Starting { .. }) | None => occupant,
    }
}

#[cfg(test)]
mod simulation;
