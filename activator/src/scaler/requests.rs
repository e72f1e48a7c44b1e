//! What requests come to the desk for: to be let through, and to give their places back.
//!
//! **Invariant:** who has come in and has not left is told once: at the desk, if that is possible at once, else where it waits.

use tokio::sync::oneshot;

use super::{Scaler, SlotId, place::Waiting};
use crate::{
    hold::{Arrival, Grant, Outcome, Reply, Said},
    slot::{Event, Failure, LaunchId, Phase, Refusal, RequestId, Stage},
};

/// A request that stands at the desk, while the scaler sees what comes of it.
#[derive(Default)]
pub enum AtDesk {
    #[default]
    Nobody,
    /// Nothing has been said to it.
    Waits(RequestId, Waiting),
    /// This is to be said to it.
    Told(Said),
}

impl Scaler {
    pub(super) fn leave(&mut self, slot: SlotId, request: RequestId) {
        self.take_waiting(slot, request);
        self.step(slot, Event::Left(request));
    }

    /// A request that stands at the desk comes in. Where it has to wait it is told elsewhere.
    pub(super) fn tell_at_desk(&mut self, arrival: Arrival) -> Outcome {
        debug_assert!(matches!(self.at_desk, AtDesk::Nobody));
        let slot = arrival.slot;
        self.arrive(arrival);
        let waiting = match std::mem::take(&mut self.at_desk) {
            AtDesk::Told(said) => return Outcome::Now(said),
            AtDesk::Waits(request, waiting) => Some((request, waiting)),
            AtDesk::Nobody => None,
        };
        let (reply, said) = oneshot::channel();
        if let Some((request, waiting)) = waiting {
            self.places[slot.0].waiting.insert(request, Waiting { reply: Reply::To(reply), ..waiting });
        }
        Outcome::Later(said)
    }

    fn say(&mut self, reply: Reply, said: Said) {
        match reply {
            Reply::AtDesk => self.at_desk = AtDesk::Told(said),
            // One that has left meanwhile is about to say so through its ticket.
            Reply::To(reply) => drop(reply.send(said)),
        }
    }

    pub(super) fn arrive(&mut self, arrival: Arrival) {
        let Arrival { slot, request, claim, lost, again, suspect, reply } = arrival;
        if matches!(&reply, Reply::To(reply) if reply.is_closed()) {
            return;
        }
        if self.places[slot.0].snapshot_changed(self.fleet.slot(slot)) {
            self.step(slot, Event::SnapshotChanged);
        }
        for launch in self.unreachable(slot, lost) {
            self.step(slot, Event::Broke(launch, Failure::internal("the runtime's connection was lost")));
        }
        let (place, state) = (&mut self.places[slot.0], self.fleet.slot(slot));
        let is_gone = lost.is_none_or(|lost| state.stage(lost).is_none());
        if suspect && is_gone && !lost.is_some_and(|lost| place.was_killed_by_others(lost)) {
            return self.say(reply, Err(Refusal::Poison));
        }
        let cold = state.phase() != Phase::Ready;
        let at_desk = matches!(reply, Reply::AtDesk);
        let waiting = Waiting { reply, cold, lost, suspect };
        if at_desk {
            self.at_desk = AtDesk::Waits(request, waiting);
        } else {
            place.waiting.insert(request, waiting);
        }
        let event = if again { Event::Returned(request) } else { Event::Arrived(request, claim) };
        self.step(slot, event);
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

    pub(super) fn admit(&mut self, slot: SlotId, request: RequestId, launch: LaunchId) {
        let waiting = self.take_waiting(slot, request);
        let place = &self.places[slot.0];
        let life = place.lives.get(&launch).and_then(|life| self.lives.get(life)).expect("who is ready has a process");
        if let Some(waiting) = waiting {
            let Waiting { reply, cold, lost, suspect: _ } = waiting;
            let blameless = lost.is_some_and(|lost| place.was_killed_by_others(lost));
            let (endpoint, leaving, once) = (life.endpoint.clone(), life.leaving.clone(), life.once.clone());
            let grant = Grant { endpoint, launch, cold, times: life.times, leaving, once, blameless };
            self.say(reply, Ok(grant));
        }
    }

    /// A request that is told, or leaves, waits no more.
    fn take_waiting(&mut self, slot: SlotId, request: RequestId) -> Option<Waiting> {
        match std::mem::take(&mut self.at_desk) {
            AtDesk::Waits(at_desk, waiting) if at_desk == request => return Some(waiting),
            other => self.at_desk = other,
        }
        let waiting = &mut self.places[slot.0].waiting;
        if waiting.is_empty() { None } else { waiting.remove(&request) }
    }

    pub(super) fn refuse(&mut self, slot: SlotId, request: RequestId, refusal: Refusal) {
        if let Some(waiting) = self.take_waiting(slot, request) {
            self.say(waiting.reply, Err(refusal));
        }
    }
}
