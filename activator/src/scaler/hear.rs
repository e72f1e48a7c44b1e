//! What processes say, and how they end.
//!
//! **Invariant:** a process is forgotten when its exit has been seen, and not before.

use std::{
    sync::atomic::Ordering,
    time::{Instant, SystemTime},
};

use protocol::control::FromRuntime;

use super::{
    Scaler,
    life::{ColdStart, Life, LifeId, Role},
};
use crate::{
    child::{ChildEvent, Exit},
    slot::{Event, Failure, LaunchId, Refusal, SlotId, Stage},
};

impl Scaler {
    /// A process has said something, closed its control socket, or ended.
    pub(super) fn hear(&mut self, id: LifeId, event: ChildEvent) {
        let Some(life) = self.lives.get_mut(&id) else { return };
        match (event, life.role) {
            (ChildEvent::Said(message), _) => self.hear_message(id, message),
            (ChildEvent::Silent(outcome), Role::Slot(slot, launch)) => self.hear_silence(slot, launch, outcome),
            (ChildEvent::Silent(_), Role::Standby { .. } | Role::Dismissed) => self.dismiss(id),
            (ChildEvent::Exited(Exit { said: status, by_others }), Role::Slot(slot, launch)) => {
                tracing::info!(model = self.places[slot.0].name, launch = launch.0, status, "a runtime ended");
                let killed = self.lives.remove(&id).is_some_and(|life| life.killed.load(Ordering::Acquire));
                let place = &mut self.places[slot.0];
                place.lives.remove(&launch);
                let suspects = place.ended(launch, by_others && !killed);
                // What the next life counts starts at zero.
                place.engines.remove(&launch);
                place.guests.remove(&launch);
                self.metrics.engines(&place.name, place.engines.values());
                for request in suspects {
                    self.refuse(slot, request, Refusal::Poison);
                    self.step(slot, Event::Left(request));
                }
                let death = Failure::internal(format!("the runtime {status} before it was ready"));
                self.step(slot, Event::Exited(launch, death));
            }
            (ChildEvent::Exited(exit), Role::Standby { .. } | Role::Dismissed) => {
                tracing::warn!(status = exit.said, "a standby ended");
                self.lives.remove(&id);
                self.standby.failed(Instant::now());
            }
        }
    }

    fn hear_message(&mut self, id: LifeId, message: FromRuntime) {
        let Some(life) = self.lives.get_mut(&id) else { return };
        let role = life.role;
        match (message, role) {
            (FromRuntime::Launched { .. }, _) => {
                life.times.launched = Some(Instant::now());
                if let Role::Standby { give_up_at } = &mut life.role {
                    *give_up_at = None;
                    self.standby.failures = 0;
                }
            }
            (FromRuntime::Ready { restore }, Role::Slot(slot, launch)) => {
                let now = Instant::now();
                life.times.ready = Some(now);
                self.standby.keep_quiet(now);
                let cold_start = life.cold_start(restore);
                self.became_ready(slot, launch, cold_start);
                self.step(slot, Event::BecameReady(launch));
            }
            (FromRuntime::Guests { guests, once }, Role::Slot(slot, launch)) => {
                // Requests that came under those before may still be under way.
                life.once.fetch_or(once, Ordering::AcqRel);
                self.places[slot.0].guests.insert(launch, guests);
            }
            (FromRuntime::Verified, Role::Slot(slot, _)) => self.places[slot.0].was_verified(),
            (FromRuntime::Failed { kind, message }, Role::Slot(slot, launch)) => {
                self.step(slot, Event::Broke(launch, Failure { kind, message: message.into() }));
            }
            (FromRuntime::Stats(stats), Role::Slot(slot, launch)) => {
                let place = &mut self.places[slot.0];
                let before = place.engines.insert(launch, stats).unwrap_or_default();
                self.metrics.engine_counted(&place.name, &before, &stats);
                self.metrics.engines(&place.name, place.engines.values());
            }
            (FromRuntime::Leaving, Role::Slot(slot, launch)) => {
                life.leaving.store(true, Ordering::Release);
                self.step(slot, Event::Leaves(launch));
            }
            (FromRuntime::Drained, Role::Slot(..)) => {
                tracing::debug!(?role, "a runtime said something that needs no answer");
            }
            (message, Role::Standby { .. } | Role::Dismissed) => {
                tracing::warn!(?message, "a standby said something that only a model's runtime may say");
                self.dismiss(id);
            }
        }
    }

    fn became_ready(&mut self, slot: SlotId, launch: LaunchId, cold_start: Option<ColdStart>) {
        let place = &mut self.places[slot.0];
        place.last_cold_start = cold_start.or(place.last_cold_start);
        if let Some(cold_start) = cold_start {
            self.metrics.cold_start_ready(&place.name, &cold_start);
            self.history.ready(&place.name, launch, SystemTime::now(), cold_start);
        }
    }

    /// Without a control socket a runtime can neither become ready nor be drained. Most likely it has just died.
    fn hear_silence(&mut self, slot: SlotId, launch: LaunchId, outcome: std::io::Result<()>) {
        if let Err(error) = outcome {
            tracing::warn!(model = self.places[slot.0].name, %error, "a runtime broke the control protocol");
        }
        match self.fleet.slot(slot).stage(launch) {
            // Its exit tells more than its silence.
            Some(Stage::Starting { .. }) => self.life_of(slot, launch, Life::kill),
            Some(Stage::Ready(_)) => {
                self.step(slot, Event::Broke(launch, Failure::internal("the runtime closed its control socket")));
            }
            Some(Stage::Placing { .. } | Stage::Draining { .. }) | None => {}
        }
    }
}
