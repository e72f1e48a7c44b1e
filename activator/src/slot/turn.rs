//! How each event changes a slot: one function an event, each over every state.

use std::{collections::BTreeMap, time::Instant};

use super::{Claim, Effect, Failure, LaunchId, Policy, Refusal, RequestId, SHORT_LIFE, Slot, State, back_off};

/// One event being worked into a slot.
pub(super) struct Turn {
    pub slot: Slot,
    pub now: Instant,
    pub effects: Vec<Effect>,
}

impl Turn {
    /// One that cannot be answered in time is turned away at once; yet it starts a cold slot, so that asking again helps.
    pub fn arrived(&mut self, request: RequestId, claim: &Claim) {
        if self.slot.closing {
            return self.refuse(request, Refusal::Closing);
        }
        if let Some(refusal) = self.turned_away(claim) {
            if matches!(refusal, Refusal::TooLate { .. }) {
                self.start_if_cold();
            }
            return self.refuse(request, refusal);
        }
        if self.has_room() {
            return self.admit(request);
        }
        self.slot.held.push(request, claim, self.now);
        self.start_if_cold();
    }

    /// Held whatever the bounds, and before all others.
    pub fn returned(&mut self, request: RequestId) {
        if self.slot.closing {
            return self.refuse(request, Refusal::Closing);
        }
        if let Some(refusal) = self.failed_for_good() {
            return self.refuse(request, refusal);
        }
        if self.has_room() {
            return self.admit(request);
        }
        self.slot.held.push_first(request);
        self.start_if_cold();
    }

    /// Why a request cannot even be held.
    fn turned_away(&self, claim: &Claim) -> Option<Refusal> {
        let slot = &self.slot;
        if let Some(refusal) = self.failed_for_good() {
            return Some(refusal);
        }
        let wait = slot.could_be_answered_in(claim.tenant, self.now);
        if claim.deadline.saturating_duration_since(self.now) < wait {
            return Some(Refusal::TooLate { retry_after: wait });
        }
        if self.has_room() {
            return None;
        }
        if slot.held.of(claim.tenant) >= claim.hold_max {
            return Some(Refusal::TenantFull);
        }
        (slot.held.len() >= slot.policy.hold_max).then_some(Refusal::Full)
    }

    fn failed_for_good(&self) -> Option<Refusal> {
        match &self.slot.state {
            State::Failed { until, failure } if *until > self.now && self.slot.turns_away(failure) => {
                Some(Refusal::Failed { failure: failure.clone(), retry_after: *until - self.now })
            }
            State::Cold
            | State::Starting { .. }
            | State::Ready { .. }
            | State::Draining { .. }
            | State::Failed { .. } => None,
        }
    }

    /// Whether a request can go straight through: nobody waits then.
    fn has_room(&self) -> bool {
        matches!(&self.slot.state, State::Ready { in_flight, .. } if in_flight.len() < self.slot.policy.concurrency)
    }

    fn admit(&mut self, request: RequestId) {
        if let State::Ready { launch, in_flight, .. } = &mut self.slot.state {
            in_flight.insert(request, self.now);
            self.effects.push(Effect::Admit(request, *launch));
        }
    }

    /// Lets those through who come next, as long as there is room.
    fn admit_held(&mut self) {
        while self.has_room() {
            match self.slot.held.pop(self.now) {
                Some(request) => self.admit(request),
                None => return,
            }
        }
    }

    fn start_if_cold(&mut self) {
        match self.slot.state {
            State::Cold => self.start(),
            // Who asks does not wait because a life was short.
            State::Failed { until, .. } if until <= self.now || self.slot.failures == 0 => self.start(),
            State::Starting { .. } | State::Ready { .. } | State::Draining { .. } | State::Failed { .. } => {}
        }
    }

    pub fn left(&mut self, request: RequestId) {
        if let State::Ready { in_flight, idle_since, .. } = &mut self.slot.state
            && let Some(since) = in_flight.remove(&request)
        {
            self.slot.pace.answered(self.now.saturating_duration_since(since));
            if in_flight.is_empty() {
                *idle_since = self.now;
            }
            return self.admit_held();
        }
        self.slot.held.remove(request);
    }

    pub fn became_ready(&mut self, ready: LaunchId) {
        match self.slot.state {
            State::Starting { launch, began, .. } if launch == ready => {
                self.slot.pace.start = Some(self.now.saturating_duration_since(began));
                (self.slot.failures, self.slot.wanted, self.slot.ready_at) = (0, false, Some(self.now));
                self.slot.state = State::Ready { launch, in_flight: BTreeMap::new(), idle_since: self.now };
                self.admit_held();
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
        let unasked = matches!(self.slot.state, State::Ready { .. });
        match std::mem::replace(&mut self.slot.state, State::Cold) {
            State::Starting { .. } => self.fail(death),
            State::Draining { failure: Some(failure), .. } => self.fail(failure),
            State::Draining { failure: None, .. } | State::Ready { .. } | State::Cold | State::Failed { .. } => {
                let since = self.slot.ready_at.take();
                let short = unasked && since.is_some_and(|at| self.now.saturating_duration_since(at) < SHORT_LIFE);
                self.slot.short_lives = if short { self.slot.short_lives.saturating_add(1) } else { 0 };
                self.start_if_wanted(self.slot.short_lives);
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
                self.start_if_wanted(0);
            }
        }
    }

    pub fn snapshot_changed(&mut self) {
        match self.slot.state {
            State::Failed { .. } => {
                self.slot.failures = 0;
                self.slot.state = State::Cold;
                self.start_if_wanted(0);
            }
            State::Cold | State::Starting { .. } | State::Ready { .. } | State::Draining { .. } => {}
        }
    }

    pub fn wanted(&mut self) {
        if self.slot.closing {
            return;
        }
        self.start_if_cold();
        self.slot.wanted = !matches!(self.slot.state, State::Ready { .. });
    }

    pub fn renew(&mut self) {
        match self.slot.state {
            State::Failed { .. } => self.snapshot_changed(),
            State::Starting { launch, .. } => self.kill(launch, None),
            State::Ready { launch, .. } => self.drain(launch, self.now + self.slot.policy.renew_timeout),
            State::Cold | State::Draining { .. } => {}
        }
    }

    pub fn unwanted(&mut self) {
        self.slot.wanted = false;
        match self.slot.state {
            State::Ready { launch, .. } => self.drain(launch, self.now + self.slot.policy.renew_timeout),
            State::Starting { launch, .. } if self.slot.held.is_empty() => self.kill(launch, None),
            State::Cold | State::Starting { .. } | State::Draining { .. } | State::Failed { .. } => {}
        }
    }

    pub fn new_policy(&mut self, policy: Policy) {
        if self.slot.policy.keep && !policy.keep {
            self.slot.wanted = false;
        }
        self.slot.policy = policy;
        self.admit_held();
        if policy.keep {
            self.wanted();
        }
    }

    pub fn close(&mut self, by: Instant) {
        (self.slot.closing, self.slot.wanted) = (true, false);
        for request in self.slot.held.take() {
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

    fn refuse(&mut self, request: RequestId, refusal: Refusal) {
        self.effects.push(Effect::Refuse(request, refusal));
    }

    fn start(&mut self) {
        self.slot.launches += 1;
        let launch = LaunchId(self.slot.launches);
        let give_up_at = self.now + self.slot.policy.start_timeout;
        self.slot.state = State::Starting { launch, began: self.now, give_up_at };
        self.effects.push(Effect::Launch(launch));
    }

    /// Who dies as soon as it is there is not started again and again without a pause, but for who asks.
    fn start_if_wanted(&mut self, short_lives: u32) {
        let kept = self.slot.policy.keep && !self.slot.closing;
        if !self.slot.held.is_empty() || self.slot.wanted {
            self.start();
        } else if kept && short_lives > 0 {
            let failure = Failure::internal("it ended soon after it was ready");
            self.slot.state = State::Failed { until: self.now + back_off(short_lives), failure };
        } else if kept {
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
            for request in self.slot.held.take() {
                self.refuse(request, Refusal::Failed { failure: failure.clone(), retry_after });
            }
        }
        self.slot.state = State::Failed { until: self.now + retry_after, failure };
    }
}
