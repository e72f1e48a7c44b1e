//! How each event changes a slot: one function an event, each over every state.

use std::time::Instant;

use super::{Effect, Failure, LaunchId, Refusal, RequestId, Slot, State, back_off};

/// One event being worked into a slot.
pub(super) struct Turn {
    pub slot: Slot,
    pub now: Instant,
    pub effects: Vec<Effect>,
}

impl Turn {
    /// `bounded`: only if there is room.
    pub fn arrived(&mut self, request: RequestId, bounded: bool) {
        if self.slot.closing {
            return self.refuse(request, Refusal::Closing);
        }
        match &mut self.slot.state {
            State::Ready { launch, in_flight, .. } => {
                in_flight.insert(request);
                self.effects.push(Effect::Admit(request, *launch));
            }
            State::Cold => {
                if self.hold(request, bounded) {
                    self.start();
                }
            }
            State::Starting { .. } | State::Draining { .. } => {
                self.hold(request, bounded);
            }
            State::Failed { until, .. } if *until <= self.now => {
                if self.hold(request, bounded) {
                    self.start();
                }
            }
            State::Failed { until, failure } => {
                let (failure, retry_after) = (failure.clone(), *until - self.now);
                if self.slot.turns_away(&failure) {
                    self.refuse(request, Refusal::Failed { failure, retry_after });
                } else {
                    self.hold(request, bounded);
                }
            }
        }
    }

    pub fn left(&mut self, request: RequestId) {
        if self.slot.held.remove(&request) {
            return;
        }
        match &mut self.slot.state {
            State::Ready { in_flight, idle_since, .. } => {
                if in_flight.remove(&request) && in_flight.is_empty() {
                    *idle_since = self.now;
                }
            }
            State::Cold | State::Starting { .. } | State::Draining { .. } | State::Failed { .. } => {}
        }
    }

    pub fn became_ready(&mut self, ready: LaunchId) {
        match self.slot.state {
            State::Starting { launch, .. } if launch == ready => {
                let in_flight = std::mem::take(&mut self.slot.held);
                self.effects.extend(in_flight.iter().map(|request| Effect::Admit(*request, launch)));
                self.slot.failures = 0;
                self.slot.state = State::Ready { launch, in_flight, idle_since: self.now };
            }
            State::Cold
            | State::Starting { .. }
            | State::Ready { .. }
            | State::Draining { .. }
            | State::Failed { .. } => {}
        }
    }

    pub fn not_launched(&mut self, gone: LaunchId, failure: Failure) {
        match self.slot.state {
            State::Starting { launch, .. } if launch == gone => self.fail(failure),
            State::Cold
            | State::Starting { .. }
            | State::Ready { .. }
            | State::Draining { .. }
            | State::Failed { .. } => {}
        }
    }

    pub fn leaves(&mut self, leaving: LaunchId) {
        match self.slot.state {
            State::Ready { launch, .. } if launch == leaving => {
                self.drain(launch, self.now + self.slot.policy.drain_timeout);
            }
            State::Starting { launch, .. } if launch == leaving => {
                self.kill(launch, Some(Failure::internal("the runtime was told to end before it was ready")));
            }
            State::Cold
            | State::Starting { .. }
            | State::Ready { .. }
            | State::Draining { .. }
            | State::Failed { .. } => {}
        }
    }

    pub fn broke(&mut self, broken: LaunchId, failure: Failure) {
        match self.slot.state {
            State::Starting { launch, .. } if launch == broken => self.kill(launch, Some(failure)),
            State::Ready { launch, .. } if launch == broken => self.kill(launch, None),
            State::Cold
            | State::Starting { .. }
            | State::Ready { .. }
            | State::Draining { .. }
            | State::Failed { .. } => {}
        }
    }

    pub fn exited(&mut self, gone: LaunchId, death: Failure) {
        if self.slot.launch() != Some(gone) {
            return;
        }
        match std::mem::replace(&mut self.slot.state, State::Cold) {
            State::Starting { .. } => self.fail(death),
            State::Draining { failure: Some(failure), .. } => self.fail(failure),
            State::Draining { failure: None, .. } | State::Ready { .. } | State::Cold | State::Failed { .. } => {
                self.start_if_wanted();
            }
        }
    }

    pub fn tick(&mut self) {
        if self.slot.deadline().is_none_or(|at| self.now < at) {
            return;
        }
        match &mut self.slot.state {
            State::Cold => {}
            State::Starting { launch, .. } => {
                let launch = *launch;
                let waited = self.slot.policy.start_timeout;
                self.kill(launch, Some(Failure::internal(format!("the runtime was not ready within {waited:?}"))));
            }
            State::Ready { launch, .. } => {
                let launch = *launch;
                self.drain(launch, self.now + self.slot.policy.drain_timeout);
            }
            State::Draining { launch, give_up_at, .. } => {
                *give_up_at = None;
                self.effects.push(Effect::Kill(*launch));
            }
            State::Failed { .. } => {
                self.slot.state = State::Cold;
                self.start_if_wanted();
            }
        }
    }

    pub fn snapshot_changed(&mut self) {
        match self.slot.state {
            State::Failed { .. } => {
                self.slot.failures = 0;
                self.slot.state = State::Cold;
                self.start_if_wanted();
            }
            State::Cold | State::Starting { .. } | State::Ready { .. } | State::Draining { .. } => {}
        }
    }

    pub fn close(&mut self, by: Instant) {
        self.slot.closing = true;
        for request in std::mem::take(&mut self.slot.held) {
            self.refuse(request, Refusal::Closing);
        }
        match &mut self.slot.state {
            State::Cold => {}
            State::Failed { .. } => self.slot.state = State::Cold,
            State::Starting { launch, .. } => {
                let launch = *launch;
                self.kill(launch, None);
            }
            State::Ready { launch, .. } => {
                let launch = *launch;
                self.drain(launch, by);
            }
            State::Draining { give_up_at, .. } => *give_up_at = give_up_at.map(|at| at.min(by)),
        }
    }

    /// Holds the request if there is room.
    fn hold(&mut self, request: RequestId, bounded: bool) -> bool {
        let room = !bounded || self.slot.held.len() < self.slot.policy.hold_max;
        if room {
            self.slot.held.insert(request);
        } else {
            self.refuse(request, Refusal::Full);
        }
        room
    }

    fn refuse(&mut self, request: RequestId, refusal: Refusal) {
        self.effects.push(Effect::Refuse(request, refusal));
    }

    fn start(&mut self) {
        self.slot.launches += 1;
        let launch = LaunchId(self.slot.launches);
        self.slot.state = State::Starting { launch, give_up_at: self.now + self.slot.policy.start_timeout };
        self.effects.push(Effect::Launch(launch));
    }

    fn start_if_wanted(&mut self) {
        if !self.slot.held.is_empty() {
            self.start();
        }
    }

    fn drain(&mut self, launch: LaunchId, give_up_at: Instant) {
        self.slot.state = State::Draining { launch, give_up_at: Some(give_up_at), failure: None };
        self.effects.push(Effect::Drain(launch));
    }

    fn kill(&mut self, launch: LaunchId, failure: Option<Failure>) {
        self.slot.state = State::Draining { launch, give_up_at: None, failure };
        self.effects.push(Effect::Kill(launch));
    }

    /// A launch ended without ever being ready.
    fn fail(&mut self, failure: Failure) {
        if self.slot.closing {
            self.slot.state = State::Cold;
            return;
        }
        self.slot.failures = self.slot.failures.saturating_add(1);
        let retry_after = back_off(self.slot.failures);
        if self.slot.turns_away(&failure) {
            for request in std::mem::take(&mut self.slot.held) {
                self.refuse(request, Refusal::Failed { failure: failure.clone(), retry_after });
            }
        }
        self.slot.state = State::Failed { until: self.now + retry_after, failure };
    }
}
