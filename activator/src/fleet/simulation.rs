//! A world around the fleet, out of one number: models, slices, clients, processes that start, fail and die, operators, and a clock that jumps to
//! whatever comes next. `SIMULATION_SEEDS` says how many worlds; a world that fails says its number.
//!
//! It keeps accounts of its own, of who is alive where and who waits, and compares.

#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap};

use super::*;
use crate::{
    placement::Group,
    slot::{Claim, RequestId, TenantId},
};

const SEEDS: u64 = 10_000;

/// SplitMix64: all that happens follows from the seed.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `range`, its end excluded.
    fn of(&mut self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.of(0..n) == 0
    }
}

/// What is yet to happen.
#[derive(Clone, Debug)]
enum Coming {
    Arrival,
    /// An answer is complete, or a client gives up.
    Over(RequestId),
    Ready(Key),
    Failed(Key),
    /// Seen to have exited.
    Exit(Key),
    Disturbance,
}

/// A process.
#[derive(Debug)]
struct Process {
    slice: usize,
    bytes: u64,
    ready: bool,
    drained: bool,
    ending: bool,
}

struct World {
    dice: Dice,
    fleet: Fleet,
    slices: Vec<u64>,
    needs: Vec<u64>,
    policies: Vec<Policy>,
    start: Instant,
    now: Instant,
    coming: BTreeMap<(Instant, u64), Coming>,
    said: u64,
    requests: u64,
    processes: BTreeMap<Key, Process>,
    /// Whose place it waits in.
    waiting: HashMap<RequestId, SlotId>,
    running: BTreeMap<RequestId, Key>,
    /// Nothing goes wrong any more, and nobody gives up.
    calm: bool,
    /// What happened, as a number.
    trace: u64,
    evictions: usize,
    answered: usize,
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl World {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let slices: Vec<u64> = (0..dice.of(1..4)).map(|_| dice.of(4..16)).collect();
        let start = Instant::now();
        let mut world = Self {
            fleet: Fleet::new(slices.clone()),
            dice,
            slices,
            needs: Vec::new(),
            policies: Vec::new(),
            start,
            now: start,
            coming: BTreeMap::new(),
            said: 0,
            requests: 0,
            processes: BTreeMap::new(),
            waiting: HashMap::new(),
            running: BTreeMap::new(),
            calm: false,
            trace: 0,
            evictions: 0,
            answered: 0,
        };
        for _ in 0..world.dice.of(1..7) {
            let policy = world.policy();
            world.policies.push(policy);
            world.fleet.add(policy);
            let largest = *world.slices.iter().max().unwrap();
            // Now and then one that fits nowhere.
            let bytes = world.dice.of(1..largest + 2);
            world.needs.push(bytes);
        }
        world.configure();
        for _ in 0..world.dice.of(1..120) {
            let at = world.dice.of(0..120_000);
            world.come(Duration::from_millis(at), Coming::Arrival);
        }
        for _ in 0..world.dice.of(0..20) {
            let at = world.dice.of(0..120_000);
            world.come(Duration::from_millis(at), Coming::Disturbance);
        }
        world
    }

    fn policy(&mut self) -> Policy {
        let max = self.dice.of(1..4) as usize;
        Policy {
            idle: seconds(self.dice.of(0..30)),
            start_timeout: seconds(self.dice.of(1..20)),
            drain_timeout: seconds(self.dice.of(1..20)),
            renew_timeout: seconds(self.dice.of(20..60)),
            hold_max: self.dice.of(1..30) as usize,
            concurrency: self.dice.of(1..5) as usize,
            min: usize::from(self.dice.one_in(6)),
            max,
            target: self.dice.of(1..4) as f64 * 0.7,
        }
    }

    fn configure(&mut self) {
        let slots = self.policies.len() as u64;
        let groups = (0..self.dice.of(0..3)).map(|_| {
            let members = (0..self.dice.of(1..slots + 1)).map(|_| SlotId(self.dice.of(0..slots) as usize)).collect();
            Group { members, together: self.dice.one_in(2), alone: self.dice.one_in(3) }
        });
        let groups = groups.collect();
        let rules =
            Rules { residence: seconds(self.dice.of(0..15)), swaps_per_minute: self.dice.of(1..60) as u32, groups };
        let needs = self.needs.iter().map(|bytes| Need { bytes: *bytes, ..Need::default() }).collect();
        self.fleet.configure(needs, rules);
        let turned = self.fleet.tick(self.now);
        self.carry_out(turned);
    }

    fn come(&mut self, after: Duration, coming: Coming) {
        self.said += 1;
        self.coming.insert((self.now + after, self.said), coming);
    }

    /// Until nothing more comes; no longer than `until`.
    fn run(&mut self, until: Instant) {
        let mut turns = 0;
        loop {
            let next = self.coming.first_key_value().map(|((at, _), _)| *at);
            let due = self.fleet.deadline();
            let Some(at) = next.into_iter().chain(due).min().filter(|at| *at <= until) else { return };
            turns += 1;
            assert!(turns < 200_000, "it turns without getting anywhere");
            self.now = self.now.max(at);
            if due.is_some_and(|due| due <= at) {
                let turned = self.fleet.tick(self.now);
                self.carry_out(turned);
            } else if let Some((_, coming)) = self.coming.pop_first() {
                self.happen(coming);
            }
            self.check();
        }
    }

    fn tell(&mut self, slot: SlotId, event: Event) {
        let turned = self.fleet.happen(slot, event, self.now);
        self.carry_out(turned);
    }

    fn happen(&mut self, coming: Coming) {
        match coming {
            Coming::Arrival => {
                let slot = SlotId(self.dice.of(0..self.policies.len() as u64) as usize);
                self.arrive(slot);
            }
            Coming::Over(request) => {
                if let Some(slot) = self.waiting.remove(&request) {
                    return self.tell(slot, Event::Left(request));
                }
                if let Some(key) = self.running.remove(&request) {
                    self.answered += 1;
                    self.tell(key.slot, Event::Left(request));
                    self.end_if_drained(key);
                }
            }
            Coming::Ready(key) => {
                if let Some(process) = self.processes.get_mut(&key).filter(|process| !process.ending) {
                    process.ready = true;
                    self.tell(key.slot, Event::BecameReady(key.launch));
                }
            }
            Coming::Failed(key) => {
                if self.processes.contains_key(&key) {
                    let failure = if self.dice.one_in(4) { Failure::unsupported("x") } else { Failure::internal("x") };
                    self.tell(key.slot, Event::Broke(key.launch, failure));
                }
            }
            Coming::Exit(key) => {
                if self.processes.remove(&key).is_some() {
                    self.tell(key.slot, Event::Exited(key.launch, Failure::internal("died")));
                    self.come_back(key);
                }
            }
            Coming::Disturbance => self.disturb(),
        }
    }

    fn arrive(&mut self, slot: SlotId) {
        self.requests += 1;
        let request = RequestId(self.requests);
        let patience = if self.dice.one_in(3) { self.dice.of(1..30) } else { 1 << 20 };
        let claim = Claim {
            tenant: TenantId(self.dice.of(0..3) as u32),
            weight: self.dice.of(1..5) as u32,
            priority: self.dice.of(0..3) as u8,
            hold_max: self.dice.of(1..20) as usize,
            deadline: self.now + seconds(patience),
            prefixes: if self.dice.one_in(2) { vec![self.dice.of(0..3)] } else { Vec::new() },
        };
        self.waiting.insert(request, slot);
        self.tell(slot, Event::Arrived(request, claim));
        if patience < 1 << 20 {
            self.come(seconds(patience), Coming::Over(request));
        }
    }

    /// Who was running on it asks again.
    fn come_back(&mut self, key: Key) {
        let lost: Vec<RequestId> = self.running.iter().filter(|(_, on)| **on == key).map(|(r, _)| *r).collect();
        for request in lost {
            self.running.remove(&request);
            self.tell(key.slot, Event::Left(request));
            self.requests += 1;
            self.waiting.insert(RequestId(self.requests), key.slot);
            self.tell(key.slot, Event::Returned(RequestId(self.requests)));
        }
    }

    fn disturb(&mut self) {
        let slot = SlotId(self.dice.of(0..self.policies.len() as u64) as usize);
        let process = self.processes.keys().nth(self.dice.of(0..4) as usize).copied();
        match (self.dice.of(0..9), process) {
            (0 | 1, Some(key)) => self.come(Duration::ZERO, Coming::Exit(key)),
            (2, Some(key)) => self.tell(key.slot, Event::Leaves(key.launch)),
            (3, _) => self.tell(slot, Event::Renew),
            (4, _) => self.tell(slot, Event::Wanted),
            (5, _) => self.tell(slot, Event::Unwanted),
            (6, _) => {
                let Policy { concurrency, .. } = self.policies[slot.0];
                let policy = Policy { concurrency, ..self.policy() };
                self.policies[slot.0] = policy;
                self.tell(slot, Event::NewPolicy(policy));
            }
            (7, _) => self.configure(),
            _ => self.tell(slot, Event::SnapshotChanged),
        }
    }

    fn carry_out(&mut self, turned: Turned) {
        self.evictions += turned.evicted.len();
        for (slot, effect) in turned.effects {
            self.trace = self.trace.wrapping_mul(31).wrapping_add(Dice(self.trace ^ slot.0 as u64).next());
            match effect {
                Effect::Launch(launch) => self.launch(Key { slot, launch }),
                Effect::Drain(launch) => {
                    let key = Key { slot, launch };
                    self.processes.get_mut(&key).expect("who is drained is alive").drained = true;
                    self.end_if_drained(key);
                }
                Effect::Kill(launch) => self.end(Key { slot, launch }, 50),
                Effect::Admit(request, launch) => self.admit(request, Key { slot, launch }),
                Effect::Refuse(request, _) => {
                    assert_eq!(self.waiting.remove(&request), Some(slot), "answered twice");
                }
                Effect::Place { .. } | Effect::Release(_) => panic!("they are the fleet's own matter"),
            }
        }
    }

    fn launch(&mut self, key: Key) {
        let slice = self.fleet.slice_of(key.slot, key.launch).expect("who is launched has a place");
        let bytes = self.needs[key.slot.0];
        let process = Process { slice, bytes, ready: false, drained: false, ending: false };
        assert!(self.processes.insert(key, process).is_none(), "launched twice");
        let took = Duration::from_millis(self.dice.of(1..3_000));
        let fate = if self.calm { 9 } else { self.dice.of(0..10) };
        match fate {
            0 => self.come(took, Coming::Failed(key)),
            1 => self.come(took, Coming::Exit(key)),
            // It never becomes ready.
            2 => {}
            _ => self.come(took, Coming::Ready(key)),
        }
    }

    fn admit(&mut self, request: RequestId, key: Key) {
        assert_eq!(self.waiting.remove(&request), Some(key.slot), "let through without waiting");
        let process = &self.processes[&key];
        assert!(process.ready && !process.drained && !process.ending, "{key:?} {process:?}");
        self.running.insert(request, key);
        let running = self.running.values().filter(|on| **on == key).count();
        assert!(running <= self.policies[key.slot.0].concurrency, "more at once than it takes");
        let took = self.dice.of(10..8_000);
        self.come(Duration::from_millis(took), Coming::Over(request));
    }

    /// A process that has been told to drain ends when it has answered.
    fn end_if_drained(&mut self, key: Key) {
        let busy = self.running.values().any(|on| *on == key);
        if !busy && self.processes.get(&key).is_some_and(|process| process.drained) {
            self.end(key, 500);
        }
    }

    fn end(&mut self, key: Key, within: u64) {
        if let Some(process) = self.processes.get_mut(&key)
            && !std::mem::replace(&mut process.ending, true)
        {
            let took = self.dice.of(1..within);
            self.come(Duration::from_millis(took), Coming::Exit(key));
        }
    }

    /// The world's accounts against the fleet's.
    fn check(&self) {
        for (slice, bytes) in self.slices.iter().enumerate() {
            let used: u64 = self.processes.values().filter(|p| p.slice == slice).map(|p| p.bytes).sum();
            assert!(used <= *bytes, "slice {slice} of {bytes} has {used}");
            assert_eq!(self.fleet.used()[slice], used, "slice {slice}");
        }
        for (slot, state) in self.fleet.slots() {
            let waiting = self.waiting.values().filter(|of| **of == slot).count();
            assert_eq!(state.held(), waiting, "held by {slot:?}");
            // What is kept for good may keep others out for good; their clients' deadlines end that.
            let kept = self.policies.iter().any(|policy| policy.min > 0);
            let something = kept || self.fleet.deadline().is_some() || !self.coming.is_empty();
            assert!(waiting == 0 || something, "held for ever by {slot:?}: {:#?}", self.fleet);
        }
    }

    /// Things go well from now on: whoever waits is answered.
    fn calm_down(&mut self) {
        self.calm = true;
        for slot in 0..self.policies.len() {
            // What is kept for good may keep others out for good.
            let policy = Policy { min: 0, start_timeout: seconds(20), ..self.policies[slot] };
            self.policies[slot] = policy;
            self.tell(SlotId(slot), Event::NewPolicy(policy));
        }
        self.run(self.now + seconds(3 * 3600));
        assert!(self.waiting.is_empty(), "{} wait for ever, of {:?}", self.waiting.len(), self.waiting.values().next());
        assert!(self.running.is_empty());
        assert_eq!(self.processes.len(), 0, "nobody asks, and yet {:?}", self.processes);
        assert!(self.fleet.slots().all(|(_, slot)| slot.replicas().is_empty()));
        assert_eq!(self.fleet.deadline(), None, "nothing is left to do");
    }

    fn live(seed: u64) -> Self {
        let mut world = Self::new(seed);
        world.run(world.start + seconds(150));
        world.calm_down();
        world
    }
}

#[test]
fn no_world_loses_a_request_or_fills_a_slice_beyond_its_end() {
    let seeds = std::env::var("SIMULATION_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(SEEDS);
    let first = std::env::var("SIMULATION_FIRST").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    let (mut evictions, mut answered) = (0, 0);
    for seed in first..first + seeds {
        let lived = std::panic::catch_unwind(|| {
            let world = World::live(seed);
            (world.evictions, world.answered)
        });
        let Ok(lived) = lived else { panic!("SIMULATION_FIRST={seed} SIMULATION_SEEDS=1") };
        (evictions, answered) = (evictions + lived.0, answered + lived.1);
    }
    println!("{seeds} worlds from {first}: {answered} requests answered, {evictions} runtimes had to go");
    assert!(seeds < 100 || evictions > 0 && answered > 0, "these worlds try nothing");
}

#[test]
fn the_same_world_goes_the_same_way() {
    for seed in 0..20 {
        assert_eq!(World::live(seed).trace, World::live(seed).trace);
    }
}
