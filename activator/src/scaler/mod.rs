//! The one owner of every slot, every runtime process and every standby: it is told what happens, and does what follows. Who tells it, and when,
//! is the matter of [`desk`].
//!
//! **Invariant:** nothing else changes a slot, and nothing here waits, but for starting processes: what is to be started is noted, and the loop
//! does it.

mod command;
mod desk;
mod hear;
mod history;
mod life;
mod place;
mod reconfigure;
mod requests;
mod share;
mod standby;
mod start;

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::OsString,
    sync::Arc,
    time::Instant,
};

use protocol::control::ToRuntime;
use tokio::sync::{oneshot, watch};

pub use self::{
    command::{Command, Wish},
    desk::Desk,
    history::PastStart,
    life::ColdStart,
    place::SlotView,
    share::SliceView,
};
use self::{
    desk::Heard,
    history::History,
    life::{Life, LifeId, Role},
    place::{Place, Told},
    requests::AtDesk,
    standby::Standby,
};
pub use crate::slot::SlotId;
use crate::{
    config::Config,
    fleet::{Fleet, Turned},
    metrics::Metrics,
    slices::Slice,
    slot::{Effect, Event, LaunchId, Phase},
};

/// The owner. See the module.
pub struct Scaler {
    fleet: Fleet,
    /// By slot.
    places: Vec<Place>,
    slices: Arc<[Slice]>,
    phases: watch::Sender<Vec<Phase>>,
    /// Slots that start.
    starting: usize,
    lives: BTreeMap<LifeId, Life>,
    /// What processes say that have begun since the loop last looked.
    begun: Vec<Heard>,
    /// Launches whose processes are to be started.
    wished: VecDeque<(SlotId, LaunchId)>,
    at_desk: AtDesk,
    /// When the loop looks next, if nothing happens.
    planned: Option<Instant>,
    lives_begun: u64,
    runtime_command: Vec<OsString>,
    start_timeout: std::time::Duration,
    standby: Standby,
    history: History,
    waiting_for_quiet: Vec<oneshot::Sender<()>>,
    closing: bool,
    metrics: Metrics,
}

impl Scaler {
    /// Without a slot: the first [`Command::Reconfigure`] brings them.
    pub fn new(config: &Config, slices: Arc<[Slice]>, metrics: Metrics) -> (Self, watch::Receiver<Vec<Phase>>) {
        let (phases, phases_seen) = watch::channel(Vec::new());
        let scaler = Self {
            fleet: Fleet::new(slices.iter().map(|slice| slice.bytes).collect()),
            places: Vec::new(),
            slices,
            phases,
            starting: 0,
            lives: BTreeMap::new(),
            begun: Vec::new(),
            wished: VecDeque::new(),
            at_desk: AtDesk::Nobody,
            planned: None,
            lives_begun: 0,
            runtime_command: config.runtime_command.clone(),
            start_timeout: config.start_timeout,
            standby: Standby::new(config.standby, config.standby_memory_bytes),
            history: History::default(),
            waiting_for_quiet: Vec::new(),
            closing: false,
            metrics,
        };
        (scaler, phases_seen)
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Arrive(arrival) => self.arrive(arrival),
            Command::Reconfigure(specs, rules, done) => {
                self.reconfigure(specs, rules);
                // Who no longer waits needs no answer.
                let _ = done.send(());
            }
            Command::Wish(slot, wish) => self.grant(slot, wish),
            Command::Views(reply) => {
                let shown = self.fleet.slots().filter(|(slot, state)| !self.places[slot.0].is_gone(state));
                // A reader that has gone needs no answer.
                let _ = reply.send(shown.map(|(slot, _)| self.view(slot)).collect());
            }
            Command::Slices(reply) => {
                let name = |slot: SlotId| self.places[slot.0].name.as_str();
                let residents = self.fleet.residents().map(|(slot, slice, bytes)| (name(slot), slice, bytes));
                // As above.
                let _ = reply.send(share::views(&self.slices, residents));
            }
            Command::ColdStarts(reply) => {
                // As above.
                let _ = reply.send(self.history.all());
            }
            Command::WhenQuiet(reply) => self.waiting_for_quiet.push(reply),
            Command::Close { give_up_at } => self.close(give_up_at),
            Command::Kill => self.kill_all(),
        }
    }

    fn grant(&mut self, slot: SlotId, wish: Wish) {
        tracing::info!(model = self.places[slot.0].name, ?wish, "an operator's wish");
        match wish {
            Wish::Load => self.step(slot, Event::Wanted),
            Wish::Drain => self.step(slot, Event::Unwanted),
            Wish::Unload => {
                let policy = self.places[slot.0].pin(Some(false));
                self.step(slot, Event::NewPolicy(policy));
                self.step(slot, Event::Unwanted);
            }
            Wish::Pin(pinned) => {
                let policy = self.places[slot.0].pin(pinned.then_some(true));
                self.step(slot, Event::NewPolicy(policy));
            }
        }
    }

    fn view(&self, slot: SlotId) -> SlotView {
        let process = |launch, life| {
            let slice = self.fleet.slice_of(slot, launch).and_then(|slice| self.slices.get(slice));
            Some((self.lives.get(&life)?.child.pid(), slice.map(|slice| slice.name.clone())))
        };
        self.places[slot.0].view(self.fleet.slot(slot), process)
    }

    /// Works an event into a slot and does what follows from it.
    fn step(&mut self, slot: SlotId, event: Event) {
        let turned = self.fleet.happen(slot, event, Instant::now());
        self.carry_out(turned);
    }

    fn carry_out(&mut self, turned: Turned) {
        for key in turned.evicted {
            self.metrics.evicted(&self.places[key.slot.0].name);
        }
        for (slot, effect) in turned.effects {
            match effect {
                Effect::Launch(launch) => self.wished.push_back((slot, launch)),
                Effect::Drain(launch) => self.drain(slot, launch),
                Effect::Kill(launch) => self.life_of(slot, launch, Life::kill),
                Effect::Admit(request, launch) => self.admit(slot, request, launch),
                Effect::Refuse(request, refusal) => self.refuse(slot, request, refusal),
                // Dealt with by the fleet.
                Effect::Place { .. } | Effect::Release(_) => {}
            }
        }
        turned.touched.into_iter().for_each(|slot| self.tell(slot));
    }

    /// Tells metrics and watchers what has become of a slot.
    fn tell(&mut self, slot: SlotId) {
        let (place, state) = (&mut self.places[slot.0], self.fleet.slot(slot));
        let now = Told::of(state);
        let before = std::mem::replace(&mut place.told, now);
        let (phase, _) = now.counts;
        if now.counts != before.counts {
            let gauges = || Box::new(self.metrics.of_slot(&place.name));
            let gauges = place.gauges.get_or_insert_with(gauges);
            gauges.tell(before.counts, now.counts);
        }
        self.starting += usize::from(now.starts);
        self.starting -= usize::from(before.starts);
        if phase != before.counts.0 {
            self.phases.send_modify(|phases| phases[slot.0] = phase);
        }
        if let (true, Some(rest)) = (now.rests_until != before.rests_until, state.rest()) {
            self.metrics.cold_start_failed(&place.name, &rest.failure.message);
        }
    }

    fn life_of(&self, slot: SlotId, launch: LaunchId, act: impl FnOnce(&Life)) {
        if let Some(life) = self.places[slot.0].lives.get(&launch).and_then(|life| self.lives.get(life)) {
            act(life);
        }
    }

    fn drain(&self, slot: SlotId, launch: LaunchId) {
        let name = &self.places[slot.0].name;
        self.life_of(slot, launch, |life| {
            tracing::info!(model = name, launch = launch.0, pid = life.child.pid(), "draining");
            // A request that comes too late for it has died of nothing.
            life.leaving.store(true, std::sync::atomic::Ordering::Release);
            if let Err(error) = life.child.tell(&ToRuntime::Drain, None) {
                tracing::warn!(model = name, %error, "a runtime cannot be told to drain");
                life.kill();
            }
        });
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let turned = self.fleet.tick(now);
        self.carry_out(turned);
        let late = |life: &Life| matches!(life.role, Role::Standby { give_up_at: Some(at) } if at <= now);
        let late: Vec<LifeId> = self.lives.iter().filter(|(_, life)| late(life)).map(|(id, _)| *id).collect();
        late.into_iter().for_each(|id| self.dismiss(id));
    }

    /// Something that cannot wait until the moment that is planned.
    fn has_work(&self) -> bool {
        let sooner = |at: Instant| self.planned.is_none_or(|planned| at < planned);
        !self.wished.is_empty() || !self.waiting_for_quiet.is_empty() || self.fleet.deadline().is_some_and(sooner)
    }

    /// When there will be something to do, if nothing happens before.
    fn plan(&mut self) -> Option<Instant> {
        self.planned = self.deadline();
        self.planned
    }

    /// It was told to end, and every process has.
    fn is_over(&self) -> bool {
        self.closing && self.lives.is_empty()
    }

    /// The next moment at which [`Scaler::tick`] or a standby's retry has something to do.
    fn deadline(&self) -> Option<Instant> {
        let slots = self.fleet.deadline();
        let standbys = self.lives.values().filter_map(|life| match life.role {
            Role::Standby { give_up_at } => give_up_at,
            Role::Slot(..) | Role::Dismissed => None,
        });
        slots.into_iter().chain(standbys).chain(self.standby.deadline()).min()
    }

    fn tell_if_quiet(&mut self) {
        let quiet = || self.fleet.slots().all(|(_, slot)| slot.held() == 0 && slot.in_flight() == 0);
        if !self.waiting_for_quiet.is_empty() && quiet() {
            for reply in self.waiting_for_quiet.drain(..) {
                // Who no longer waits needs no answer.
                let _ = reply.send(());
            }
        }
    }

    fn close(&mut self, give_up_at: Instant) {
        self.closing = true;
        for slot in 0..self.places.len() {
            self.step(SlotId(slot), Event::Close { give_up_at });
        }
        let standbys: Vec<LifeId> =
            self.lives.iter().filter(|(_, life)| !matches!(life.role, Role::Slot(..))).map(|(id, _)| *id).collect();
        standbys.into_iter().for_each(|id| self.dismiss(id));
    }

    fn kill_all(&mut self) {
        // First, so that no exit starts another life.
        self.close(Instant::now());
        self.lives.values().for_each(|life| life.child.kill());
    }
}
