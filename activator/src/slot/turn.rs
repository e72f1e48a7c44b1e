//! How each event changes a slot: one function an event, over every runtime that it has. What follows whatever happened, [`Turn::settle`] does.

use std::time::Instant;

use super::{
    Claim, Effect, Effects, Failure, LaunchId, Policy, Ready, Refusal, Replica, RequestId, Rest, SHORT_LIFE, Slot,
    Stage, back_off,
};

/// One event being worked into a slot.
pub(super) struct Turn<'a> {
    pub slot: &'a mut Slot,
    pub now: Instant,
    pub effects: Effects,
}

/// A runtime may have its prefix's requests as long as it has no more than this above the least busy one: a part of that one's load, and some.
const AFFINITY: (usize, usize) = (4, 2);

impl Turn<'_> {
    /// One that cannot be answered in time is turned away at once; yet it starts a cold slot, so that asking again helps.
    pub fn arrived(&mut self, request: RequestId, claim: Claim) {
        if self.slot.closing {
            return self.refuse(request, Refusal::Closing);
        }
        if let Some(refusal) = self.turned_away(&claim) {
            if matches!(refusal, Refusal::TooLate { .. }) && self.slot.active() == 0 {
                self.slot.nudged = true;
                self.settle();
            }
            return self.refuse(request, refusal);
        }
        if let Some(launch) = self.choose(&claim.prefixes) {
            return self.admit(request, launch, &claim.prefixes);
        }
        self.slot.held.push(request, &claim, self.now);
        if !claim.prefixes.is_empty() {
            self.slot.prefixes.insert(request, claim.prefixes);
        }
    }

    /// Held whatever the bounds, and before all others.
    pub fn returned(&mut self, request: RequestId) {
        if self.slot.closing {
            return self.refuse(request, Refusal::Closing);
        }
        if let Some(refusal) = self.failed_for_good() {
            return self.refuse(request, refusal);
        }
        if let Some(launch) = self.choose(&[]) {
            return self.admit(request, launch, &[]);
        }
        self.slot.held.push_first(request);
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
        let Rest { until, failure } = self.slot.rest.as_ref()?;
        let for_good = self.slot.active() == 0 && *until > self.now && self.slot.turns_away(failure);
        for_good.then(|| Refusal::Failed { failure: failure.clone(), retry_after: *until - self.now })
    }

    /// Whether a request can go straight through: nobody waits then.
    fn has_room(&self) -> bool {
        self.slot.ready().any(|(_, ready)| ready.in_flight.len() < self.slot.policy.concurrency)
    }

    /// The runtime for a prompt that begins like this: the one that knows most of it, unless it is much busier than the least busy one.
    fn choose(&self, prefixes: &[u64]) -> Option<LaunchId> {
        let free = || self.slot.ready().filter(|(_, ready)| ready.in_flight.len() < self.slot.policy.concurrency);
        let load = |ready: &Ready| ready.in_flight.len();
        let (least_busy, least) = free().map(|(launch, ready)| (launch, load(ready))).min_by_key(|(_, load)| *load)?;
        let bearable = least + least / AFFINITY.0 + AFFINITY.1;
        let known = free()
            .filter(|(_, ready)| load(ready) <= bearable)
            .map(|(launch, ready)| (ready.knows(prefixes), std::cmp::Reverse(load(ready)), launch))
            .filter(|(known, ..)| *known > 0)
            .max();
        Some(known.map_or(least_busy, |(.., launch)| launch))
    }

    fn admit(&mut self, request: RequestId, launch: LaunchId, prefixes: &[u64]) {
        let now = self.now;
        if let Some(ready) = self.ready_mut(launch) {
            ready.in_flight.insert(request, now);
            ready.learn(prefixes);
            self.effects.push(Effect::Admit(request, launch));
        }
    }

    /// Lets those through who come next, as long as there is room.
    fn admit_held(&mut self) {
        while !self.slot.held.is_empty() && self.has_room() {
            let Some(request) = self.slot.held.pop(self.now) else { return };
            let prefixes = self.slot.prefixes.remove(&request).unwrap_or_default();
            match self.choose(&prefixes) {
                Some(launch) => self.admit(request, launch, &prefixes),
                None => self.slot.held.push_first(request),
            }
        }
    }

    pub fn left(&mut self, request: RequestId) {
        let now = self.now;
        for replica in self.slot.replicas.values_mut() {
            if let Stage::Ready(ready) = &mut replica.stage
                && let Some(since) = ready.in_flight.remove(&request)
            {
                if ready.in_flight.is_empty() {
                    ready.idle_since = now;
                }
                return self.slot.pace.answered(now.saturating_duration_since(since));
            }
        }
        self.slot.prefixes.remove(&request);
        self.slot.held.remove(request);
    }

    pub fn placed(&mut self, launch: LaunchId) {
        let give_up_at = self.now + self.slot.policy.start_timeout;
        if let Some(Replica { stage: stage @ Stage::Placing { .. }, .. }) = self.slot.replicas.get_mut(&launch) {
            *stage = Stage::Starting { began: self.now, give_up_at };
            self.effects.push(Effect::Launch(launch));
        }
    }

    /// What is stale goes first, one at a time.
    pub fn no_room(&mut self, launch: LaunchId) {
        if matches!(self.slot.stage(launch), Some(Stage::Placing { .. })) {
            self.slot.replicas.remove(&launch);
            self.drain_one_stale();
        }
    }

    pub fn evicted(&mut self, launch: LaunchId) {
        let idle = self.ready_mut(launch).map(|ready| ready.in_flight.is_empty());
        let Policy { drain_timeout, renew_timeout, .. } = self.slot.policy;
        if let Some(idle) = idle {
            self.drain(launch, self.now + if idle { drain_timeout } else { renew_timeout });
        }
    }

    pub fn became_ready(&mut self, launch: LaunchId) {
        let Some(Stage::Starting { began, .. }) = self.slot.stage(launch) else { return };
        self.slot.pace.start = Some(self.now.saturating_duration_since(*began));
        (self.slot.failures, self.slot.wanted, self.slot.nudged, self.slot.rest) = (0, false, false, None);
        self.stage(launch, Stage::Ready(Ready::new(self.now)));
        // Who waits is let through before somebody else goes.
        self.admit_held();
        self.drain_one_stale();
    }

    /// It succeeds one of them; without one, nothing.
    fn drain_one_stale(&mut self) {
        let stale = self.slot.ready().filter(|(launch, _)| self.slot.replicas[launch].stale);
        let next = stale.min_by_key(|(launch, ready)| (ready.in_flight.len(), *launch)).map(|(launch, _)| launch);
        if let Some(launch) = next {
            self.drain(launch, self.now + self.slot.policy.renew_timeout);
        }
    }

    pub fn not_launched(&mut self, launch: LaunchId, failure: Failure) {
        if let Some(Stage::Starting { .. } | Stage::Placing { .. }) = self.slot.stage(launch) {
            self.forget(launch);
            self.fail(failure);
        }
    }

    pub fn leaves(&mut self, launch: LaunchId) {
        match self.slot.stage(launch) {
            Some(Stage::Ready(_)) => self.drain(launch, self.now + self.slot.policy.drain_timeout),
            Some(Stage::Starting { .. }) => {
                self.kill(launch, Some(Failure::internal("the runtime was told to end before it was ready")));
            }
            Some(Stage::Placing { .. } | Stage::Draining { .. }) | None => {}
        }
    }

    pub fn broke(&mut self, launch: LaunchId, failure: Failure) {
        match self.slot.stage(launch) {
            Some(Stage::Starting { .. }) => self.kill(launch, Some(failure)),
            Some(Stage::Ready(_)) => self.kill(launch, None),
            Some(Stage::Placing { .. } | Stage::Draining { .. }) | None => {}
        }
    }

    pub fn exited(&mut self, launch: LaunchId, death: Failure) {
        if matches!(self.slot.stage(launch), None | Some(Stage::Placing { .. })) {
            return;
        }
        let Some(replica) = self.forget(launch) else { return };
        match replica.stage {
            Stage::Starting { .. } => self.fail(death),
            Stage::Draining { failure: Some(failure), .. } => self.fail(failure),
            Stage::Ready(ready) => {
                let short = self.now.saturating_duration_since(ready.since) < SHORT_LIFE;
                self.slot.short_lives = if short { self.slot.short_lives.saturating_add(1) } else { 0 };
                self.rest_after_short_lives();
            }
            Stage::Draining { failure: None, .. } => self.slot.short_lives = 0,
            Stage::Placing { .. } => {}
        }
    }

    /// Who dies as soon as it is there is not started again and again without a pause, but for who asks.
    fn rest_after_short_lives(&mut self) {
        if self.slot.short_lives > 0 && self.slot.policy.min > 0 && !self.slot.is_asked_for() && !self.slot.closing {
            let failure = Failure::internal("it ended soon after it was ready");
            self.slot.rest = Some(Rest { until: self.now + back_off(self.slot.short_lives), failure });
        }
    }

    pub fn tick(&mut self) {
        let now = self.now;
        if self.slot.rest.as_ref().is_some_and(|rest| rest.until <= now) {
            self.slot.rest = None;
        }
        let due = |replica: &Replica| match &replica.stage {
            Stage::Starting { give_up_at, .. } => *give_up_at <= now,
            Stage::Draining { give_up_at, .. } => give_up_at.is_some_and(|at| at <= now),
            Stage::Placing { .. } | Stage::Ready(_) => false,
        };
        let due: Vec<LaunchId> = self.slot.replicas.iter().filter(|(_, r)| due(r)).map(|(launch, _)| *launch).collect();
        due.into_iter().for_each(|launch| self.give_up(launch));
        if self.slot.quiet_since().is_some_and(|since| since + self.slot.policy.idle <= now) {
            self.slot.scale.rest();
            self.drain_surplus(self.slot.policy.min, now + self.slot.policy.drain_timeout);
        }
        self.look();
    }

    /// It took too long.
    fn give_up(&mut self, launch: LaunchId) {
        match self.slot.replicas.get_mut(&launch).map(|replica| &mut replica.stage) {
            Some(Stage::Starting { .. }) => {
                let waited = self.slot.policy.start_timeout;
                self.kill(launch, Some(Failure::internal(format!("the runtime was not ready within {waited:?}"))));
            }
            Some(Stage::Draining { give_up_at, .. }) => {
                *give_up_at = None;
                self.effects.push(Effect::Kill(launch));
            }
            Some(Stage::Placing { .. } | Stage::Ready(_)) | None => {}
        }
    }

    /// Whether there are enough runtimes for what there is to do, or too many.
    fn look(&mut self) {
        if self.slot.scale.deadline().is_none_or(|at| self.now < at) {
            return;
        }
        let there = self.slot.ready_count();
        self.slot.scale.look(self.now, there, self.slot.policy.target);
        let desired = self.slot.desired().max(1);
        if there > desired {
            self.drain_surplus(there - 1, self.now + self.slot.policy.renew_timeout);
        }
    }

    /// Leaves so many ready; the least busy go, of those the newest.
    fn drain_surplus(&mut self, leave: usize, give_up_at: Instant) {
        let mut ready: Vec<_> =
            self.slot.ready().map(|(launch, ready)| (ready.in_flight.len(), std::cmp::Reverse(launch))).collect();
        ready.sort_unstable();
        let surplus = ready.len().saturating_sub(leave);
        for (_, std::cmp::Reverse(launch)) in ready.into_iter().take(surplus) {
            self.drain(launch, give_up_at);
        }
    }

    pub fn snapshot_changed(&mut self) {
        if self.slot.rest.take().is_some() {
            self.slot.failures = 0;
        }
    }

    pub fn wanted(&mut self) {
        self.slot.wanted = !self.slot.closing && self.slot.ready().next().is_none();
    }

    /// What starts does so again, with what is there now; what is ready is succeeded.
    pub fn renew(&mut self) {
        self.snapshot_changed();
        let mut starting = Vec::new();
        for (launch, replica) in &mut self.slot.replicas {
            match replica.stage {
                Stage::Starting { .. } => starting.push(*launch),
                Stage::Ready(_) => replica.stale = true,
                Stage::Placing { .. } | Stage::Draining { .. } => {}
            }
        }
        starting.into_iter().for_each(|launch| self.kill(launch, None));
    }

    /// Starts the next successor, if something is stale and none is on its way.
    fn roll(&mut self) {
        let replicas = || self.slot.replicas.values();
        let stale = replicas().any(|replica| replica.stale && matches!(replica.stage, Stage::Ready(_)));
        let coming = replicas().any(|r| matches!(r.stage, Stage::Placing { .. } | Stage::Starting { .. }));
        let room = self.slot.replicas.len() <= self.slot.policy.max.max(1);
        if stale && !coming && room && self.slot.rest.is_none() {
            self.start(true);
        }
    }

    pub fn unwanted(&mut self) {
        (self.slot.wanted, self.slot.nudged) = (false, false);
        self.slot.scale.rest();
        let end = self.now + self.slot.policy.renew_timeout;
        let nobody = self.slot.held.is_empty();
        for (launch, stage) in self.stages() {
            match stage {
                Stage::Ready(_) => self.drain(launch, end),
                Stage::Starting { .. } if nobody => self.kill(launch, None),
                Stage::Placing { .. } if nobody => drop(self.forget(launch)),
                Stage::Placing { .. } | Stage::Starting { .. } | Stage::Draining { .. } => {}
            }
        }
    }

    pub fn new_policy(&mut self, policy: Policy) {
        if self.slot.policy.min > 0 && policy.min == 0 {
            self.slot.wanted = false;
        }
        self.slot.policy = policy;
        if policy.max <= 1 {
            self.slot.scale.rest();
        }
        self.drain_surplus(policy.max.max(1), self.now + policy.renew_timeout);
    }

    pub fn close(&mut self, by: Instant) {
        (self.slot.closing, self.slot.wanted, self.slot.nudged, self.slot.rest) = (true, false, false, None);
        self.slot.prefixes.clear();
        for request in self.slot.held.take() {
            self.refuse(request, Refusal::Closing);
        }
        for (launch, stage) in self.stages() {
            match stage {
                Stage::Placing { .. } => drop(self.forget(launch)),
                Stage::Starting { .. } => self.kill(launch, None),
                Stage::Ready(_) => self.drain(launch, by),
                Stage::Draining { give_up_at, failure } => {
                    let give_up_at = give_up_at.map(|at| at.min(by));
                    self.stage(launch, Stage::Draining { give_up_at, failure });
                }
            }
        }
    }

    /// Whatever happened: who waits and can go goes; what is missing is started, what nobody needs is not waited for.
    pub fn settle(&mut self) {
        if self.slot.closing || self.slot.is_settled() {
            return;
        }
        self.admit_held();
        if self.slot.policy.max > 1 {
            self.slot.scale.observe(self.now, self.slot.held.len() + self.slot.in_flight());
        }
        self.roll();
        let (desired, alive_max) = (self.slot.desired(), self.slot.policy.max.max(1));
        while self.slot.active() < desired && self.slot.replicas.len() < alive_max && !self.is_resting() {
            self.start(false);
        }
        self.cancel_surplus(desired);
    }

    /// Who asks does not wait because a life was short.
    fn is_resting(&mut self) -> bool {
        let (now, asked) = (self.now, self.slot.is_asked_for() && self.slot.failures == 0);
        if self.slot.rest.as_ref().is_some_and(|rest| rest.until <= now || asked) {
            self.slot.rest = None;
        }
        self.slot.rest.is_some()
    }

    /// Room that nobody needs any more is not waited for.
    fn cancel_surplus(&mut self, desired: usize) {
        let waits = |(launch, replica): (&LaunchId, &Replica)| {
            matches!(replica.stage, Stage::Placing { surge: false }).then_some(*launch)
        };
        while self.slot.active() > desired {
            let Some(launch) = self.slot.replicas.iter().rev().find_map(waits) else { return };
            self.forget(launch);
        }
    }

    fn refuse(&mut self, request: RequestId, refusal: Refusal) {
        self.effects.push(Effect::Refuse(request, refusal));
    }

    fn start(&mut self, surge: bool) {
        self.slot.launches += 1;
        let launch = LaunchId(self.slot.launches);
        self.slot.replicas.insert(launch, Replica { stage: Stage::Placing { surge }, stale: false });
        self.effects.push(Effect::Place { launch, surge });
    }

    fn drain(&mut self, launch: LaunchId, give_up_at: Instant) {
        self.stage(launch, Stage::Draining { give_up_at: Some(give_up_at), failure: None });
        self.effects.push(Effect::Drain(launch));
    }

    fn kill(&mut self, launch: LaunchId, failure: Option<Failure>) {
        self.stage(launch, Stage::Draining { give_up_at: None, failure });
        self.effects.push(Effect::Kill(launch));
    }

    fn stage(&mut self, launch: LaunchId, stage: Stage) {
        if let Some(replica) = self.slot.replicas.get_mut(&launch) {
            replica.stage = stage;
        }
    }

    fn stages(&self) -> Vec<(LaunchId, Stage)> {
        self.slot.replicas.iter().map(|(launch, replica)| (*launch, replica.stage.clone())).collect()
    }

    fn ready_mut(&mut self, launch: LaunchId) -> Option<&mut Ready> {
        match &mut self.slot.replicas.get_mut(&launch)?.stage {
            Stage::Ready(ready) => Some(ready),
            Stage::Placing { .. } | Stage::Starting { .. } | Stage::Draining { .. } => None,
        }
    }

    /// It is gone, and with it its need for room.
    fn forget(&mut self, launch: LaunchId) -> Option<Replica> {
        let replica = self.slot.replicas.remove(&launch)?;
        self.effects.push(Effect::Release(launch));
        Some(replica)
    }

    /// A launch ended without ever being ready.
    fn fail(&mut self, failure: Failure) {
        self.slot.nudged = false;
        // A wish that cannot come true is not tried for ever.
        self.slot.wanted &= failure.retry_may_help();
        if self.slot.closing {
            return;
        }
        self.slot.failures = self.slot.failures.saturating_add(1);
        let retry_after = back_off(self.slot.failures);
        // While another runtime answers, or is about to, nobody need be told.
        if self.slot.turns_away(&failure) && self.slot.active() == 0 {
            self.slot.prefixes.clear();
            for request in self.slot.held.take() {
                self.refuse(request, Refusal::Failed { failure: failure.clone(), retry_after });
            }
        }
        self.slot.rest = Some(Rest { until: self.now + retry_after, failure });
    }
}
