//! The one owner of every slot, every runtime process and every standby: one task, one `select!`.
//!
//! **Invariant:** nothing else changes a slot, and nothing here waits: requests come over a bounded channel, processes
//! are heard through their descriptors, time through the next deadline alone. There is no ticking and no polling.

mod command;
mod hear;
mod history;
mod life;
mod place;
mod reconfigure;
mod share;
mod standby;
mod start;

use std::{collections::BTreeMap, ffi::OsString, pin::Pin, sync::Arc, time::Instant};

use futures_util::{Stream, StreamExt, stream::SelectAll};
use protocol::control::ToRuntime;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::{
    command::{Command, Wish},
    history::PastStart,
    life::ColdStart,
    place::SlotView,
    share::SliceView,
};
use self::{
    history::History,
    life::{Life, LifeId, Role},
    place::{Place, Told, Waiting},
    standby::Standby,
};
pub use crate::slot::SlotId;
use crate::{
    child::ChildEvent,
    config::Config,
    fleet::{Fleet, Turned},
    hold::{Arrival, Grant},
    metrics::Metrics,
    slices::Slice,
    slot::{Effect, Event, Failure, LaunchId, Phase, Refusal, RequestId, Stage},
};

/// Commands that are carried out, if so many are there, before anything else is looked at: to look between any two is most of what they cost.
const COMMANDS_TOGETHER: usize = 64;

type Heard = Pin<Box<dyn Stream<Item = (LifeId, ChildEvent)> + Send>>;

/// The owner. See the module.
pub struct Scaler {
    commands: mpsc::Receiver<Command>,
    fleet: Fleet,
    /// By slot.
    places: Vec<Place>,
    slices: Arc<[Slice]>,
    phases: watch::Sender<Vec<Phase>>,
    /// Slots that start.
    starting: usize,
    lives: BTreeMap<LifeId, Life>,
    heard: SelectAll<Heard>,
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
    pub fn new(
        config: &Config,
        slices: Arc<[Slice]>,
        commands: mpsc::Receiver<Command>,
        metrics: Metrics,
    ) -> (Self, watch::Receiver<Vec<Phase>>) {
        let (phases, phases_seen) = watch::channel(Vec::new());
        let scaler = Self {
            commands,
            fleet: Fleet::new(slices.iter().map(|slice| slice.bytes).collect()),
            places: Vec::new(),
            slices,
            phases,
            starting: 0,
            lives: BTreeMap::new(),
            heard: SelectAll::new(),
            lives_begun: 0,
            runtime_command: config.runtime_command.clone(),
            start_timeout: config.start_timeout,
            standby: Standby::new(config.standby),
            history: History::default(),
            waiting_for_quiet: Vec::new(),
            closing: false,
            metrics,
        };
        (scaler, phases_seen)
    }

    /// Until [`Command::Close`] or [`Command::Kill`], and the end of every process.
    pub async fn run(mut self) {
        let mut together = Vec::new();
        while !(self.closing && self.lives.is_empty()) {
            self.replenish_standbys().await;
            let deadline = self.deadline();
            tokio::select! {
                commands = self.commands.recv_many(&mut together, COMMANDS_TOGETHER) => {
                    if commands == 0 {
                        self.kill_all().await;
                    }
                    for command in together.drain(..) {
                        self.obey(command).await;
                    }
                },
                Some((life, event)) = self.heard.next() => self.hear(life, event).await,
                () = until(deadline) => self.tick().await,
            }
            self.tell_if_quiet();
        }
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Arrive(arrival) => self.arrive(arrival).await,
            Command::Leave(slot, request) => {
                self.places[slot.0].waiting.remove(&request);
                self.step(slot, Event::Left(request)).await;
            }
            Command::Reconfigure(specs, rules, done) => {
                self.reconfigure(specs, rules).await;
                // Who no longer waits needs no answer.
                let _ = done.send(());
            }
            Command::Wish(slot, wish) => self.grant(slot, wish).await,
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
            Command::Close { give_up_at } => self.close(give_up_at).await,
            Command::Kill => self.kill_all().await,
        }
    }

    async fn grant(&mut self, slot: SlotId, wish: Wish) {
        tracing::info!(model = self.places[slot.0].name, ?wish, "an operator's wish");
        match wish {
            Wish::Load => self.step(slot, Event::Wanted).await,
            Wish::Drain => self.step(slot, Event::Unwanted).await,
            Wish::Unload => {
                let policy = self.places[slot.0].pin(Some(false));
                self.step(slot, Event::NewPolicy(policy)).await;
                self.step(slot, Event::Unwanted).await;
            }
            Wish::Pin(pinned) => {
                let policy = self.places[slot.0].pin(pinned.then_some(true));
                self.step(slot, Event::NewPolicy(policy)).await;
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

    async fn arrive(&mut self, arrival: Arrival) {
        let Arrival { slot, request, claim, lost, again, suspect, reply } = arrival;
        if reply.is_closed() {
            return;
        }
        if self.places[slot.0].snapshot_changed(self.fleet.slot(slot)) {
            self.step(slot, Event::SnapshotChanged).await;
        }
        for launch in self.unreachable(slot, lost) {
            self.step(slot, Event::Broke(launch, Failure::internal("the runtime's connection was lost"))).await;
        }
        let (place, state) = (&mut self.places[slot.0], self.fleet.slot(slot));
        let is_gone = lost.is_none_or(|lost| state.stage(lost).is_none());
        if suspect && is_gone && !lost.is_some_and(|lost| place.was_killed_by_others(lost)) {
            // One that has left meanwhile is about to say so through its ticket.
            let _ = reply.send(Err(Refusal::Poison));
            return;
        }
        let cold = state.phase() != Phase::Ready;
        place.waiting.insert(request, Waiting { reply, cold, lost, suspect });
        let event = if again { Event::Returned(request) } else { Event::Arrived(request, claim) };
        self.step(slot, event).await;
    }

    /// Launches that pass for ready and yet cannot be reached: their exits are about to be seen.
    fn unreachable(&self, slot: SlotId, lost: Option<LaunchId>) -> Vec<LaunchId> {
        let lives = &self.places[slot.0].lives;
        let closed = |launch: &LaunchId| {
            lost == Some(*launch)
                || lives.get(launch).and_then(|life| self.lives.get(life)).is_none_or(|life| life.endpoint.is_closed())
        };
        let replicas = self.fleet.slot(slot).replicas().iter();
        let ready = replicas.filter(|(_, replica)| matches!(replica.stage, Stage::Ready(_))).map(|(launch, _)| *launch);
        ready.filter(closed).collect()
    }

    /// Works an event into a slot and does what follows from it.
    async fn step(&mut self, slot: SlotId, event: Event) {
        let turned = self.fleet.happen(slot, event, Instant::now());
        self.carry_out(turned).await;
    }

    async fn carry_out(&mut self, turned: Turned) {
        let (mut next, mut touched) = (Some(turned), Vec::new());
        while let Some(turned) = next.take() {
            for key in turned.evicted {
                self.metrics.evicted(&self.places[key.slot.0].name);
            }
            touched.extend(turned.touched);
            for (slot, effect) in turned.effects {
                match effect {
                    Effect::Launch(launch) => {
                        if let Err(failure) = self.launch(slot, launch).await {
                            let failed = Event::NotLaunched(launch, failure);
                            let follows = self.fleet.happen(slot, failed, Instant::now());
                            next.get_or_insert_default().then(follows);
                        }
                    }
                    Effect::Drain(launch) => self.drain(slot, launch),
                    Effect::Kill(launch) => self.life_of(slot, launch, Life::kill),
                    Effect::Admit(request, launch) => self.admit(slot, request, launch),
                    Effect::Refuse(request, refusal) => self.refuse(slot, request, refusal),
                    // Dealt with by the fleet.
                    Effect::Place { .. } | Effect::Release(_) => {}
                }
            }
        }
        touched.into_iter().for_each(|slot| self.tell(slot));
    }

    /// Tells metrics and watchers what has become of a slot.
    fn tell(&mut self, slot: SlotId) {
        let (place, state) = (&mut self.places[slot.0], self.fleet.slot(slot));
        let now = Told::of(state);
        let before = std::mem::replace(&mut place.told, now);
        let (phase, counts) = now.counts;
        if now.counts != before.counts {
            let gauges = place.gauges.get_or_insert_with(|| Box::new(self.metrics.of_slot(&place.name)));
            gauges.tell(phase, counts);
        }
        self.starting += usize::from(now.starts);
        self.starting -= usize::from(before.starts);
        self.phases.send_if_modified(|phases| std::mem::replace(&mut phases[slot.0], phase) != phase);
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

    fn admit(&mut self, slot: SlotId, request: RequestId, launch: LaunchId) {
        let place = &mut self.places[slot.0];
        let life = place.lives.get(&launch).and_then(|life| self.lives.get(life)).expect("who is ready has a process");
        if let Some(waiting) = place.waiting.remove(&request) {
            let Waiting { reply, cold, lost, suspect: _ } = waiting;
            let blameless = lost.is_some_and(|lost| place.was_killed_by_others(lost));
            // One that has left meanwhile is about to say so through its ticket.
            let (endpoint, leaving, once) = (life.endpoint.clone(), life.leaving.clone(), life.once.clone());
            let _ = reply.send(Ok(Grant { endpoint, launch, cold, times: life.times, leaving, once, blameless }));
        }
    }

    fn refuse(&mut self, slot: SlotId, request: RequestId, refusal: Refusal) {
        if let Some(waiting) = self.places[slot.0].waiting.remove(&request) {
            // As above.
            let _ = waiting.reply.send(Err(refusal));
        }
    }

    async fn tick(&mut self) {
        let now = Instant::now();
        let turned = self.fleet.tick(now);
        self.carry_out(turned).await;
        let late = |life: &Life| matches!(life.role, Role::Standby { give_up_at: Some(at) } if at <= now);
        let late: Vec<LifeId> = self.lives.iter().filter(|(_, life)| late(life)).map(|(id, _)| *id).collect();
        late.into_iter().for_each(|id| self.dismiss(id));
    }

    /// The next moment at which [`Scaler::tick`] or a standby's retry has something to do.
    fn deadline(&self) -> Option<Instant> {
        let slots = self.fleet.deadline();
        let standbys = self.lives.values().filter_map(|life| match life.role {
            Role::Standby { give_up_at } => give_up_at,
            Role::Slot(..) | Role::Dismissed => None,
        });
        slots.into_iter().chain(standbys).chain(self.standby.retry_at).min()
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

    async fn close(&mut self, give_up_at: Instant) {
        self.closing = true;
        for slot in 0..self.places.len() {
            self.step(SlotId(slot), Event::Close { give_up_at }).await;
        }
        let standbys: Vec<LifeId> =
            self.lives.iter().filter(|(_, life)| !matches!(life.role, Role::Slot(..))).map(|(id, _)| *id).collect();
        standbys.into_iter().for_each(|id| self.dismiss(id));
    }

    async fn kill_all(&mut self) {
        // First, so that no exit starts another life.
        self.close(Instant::now()).await;
        self.lives.values().for_each(|life| life.child.kill());
    }
}

/// Pends without a deadline.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
