//! One model's place in the activator, as a pure state machine: who is held, and the runtimes that answer.
//!
//! ```text
//!            wanted             room              BecameReady             idle, evicted, or Close
//!  (nothing) ──────► Placing ─────────► Starting ─────────────► Ready ────────────────────────► Draining ──► (nothing)
//!                       │ cancelled        │  not ready in time, Broke │ Broke                       ▲
//!                       └► (nothing)       └──────────────────────────┴─────────────────────────────┘
//! ```
//!
//! Each runtime (*replica*) goes this way. What the slot as a whole is called ([`Phase`]) is the best that one of them has reached; a slot whose
//! last launch never became ready *rests* (`Failed`) before the next. How many runtimes there should be follows from who asks: none, one, or
//! as many as [`scale`] finds, between the policy's bounds.
//!
//! **Invariants:** never more launches alive than the policy's `max`, but for one that succeeds another ([`Event::Renew`]); a request is held only while a
//! launch is alive or wished for, or a retry is due; whoever is held is admitted, refused, or has left, in the order of the queue
//! (`slot/queue.rs`), and while somebody is held every ready runtime answers as many as it may; a launch is forgotten only once its exit has
//! been seen, and gives its room back then. Nothing here reads a clock, spawns or awaits: time is an argument and [`Effect`]s are data.

mod pace;
mod queue;
mod replica;
mod scale;
mod turn;

pub use queue::{AGEING, Claim, TenantId, WEIGHT_MAX};
pub use replica::{Prefixes, Ready, Replica, Stage};
pub use scale::{LOOK, PANIC, STABLE};

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use pace::Pace;
use protocol::control::FailureKind;
use queue::Queue;
use scale::Scale;
use smallvec::SmallVec;

/// The first wait after a launch that never became ready; each further one in a row doubles it.
pub const BACK_OFF_FIRST: Duration = Duration::from_millis(250);

/// No back-off is longer.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// A model that is kept is started again at once only if it lived at least so long.
pub const SHORT_LIFE: Duration = Duration::from_secs(30);

/// As many failures in a row turn held requests away instead of holding them further.
pub const FAILURES_HELD_THROUGH: u32 = 3;

/// A model's index, in the order in which models came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub usize);

/// One life of a runtime process in one slot. Unique and growing within its slot; also names its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaunchId(pub u64);

/// One admission of one request. Unique and growing, so that order is order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A slot's times and bounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// A ready runtime that nobody asked for so long is drained.
    pub idle: Duration,
    /// From launch to ready; a slower runtime is killed.
    pub start_timeout: Duration,
    /// From drain to exit; a slower runtime is killed.
    pub drain_timeout: Duration,
    /// The same where nobody hurries: as long as what it answers may take.
    pub renew_timeout: Duration,
    /// Requests held at most, besides those that lost their runtime.
    pub hold_max: usize,
    /// Requests that one runtime answers at the same time; further ones are held.
    pub concurrency: usize,
    /// So many runtimes are started without a request, and never drained for want of one.
    pub min: usize,
    /// No more runtimes than this, but for one that succeeds another.
    pub max: usize,
    /// Requests at once that each runtime is to have, where there may be several.
    pub target: f64,
}

/// Why a launch never became ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Decides whether a retry can help.
    pub kind: FailureKind,
    /// For the client: what happened and what to do.
    pub message: Arc<str>,
}

impl Failure {
    /// A failure of ours, or of the process: a retry may help.
    pub fn internal(message: impl Into<Arc<str>>) -> Self {
        Self { kind: FailureKind::Internal, message: message.into() }
    }

    /// It cannot be, as it is asked for.
    pub fn unsupported(message: impl Into<Arc<str>>) -> Self {
        Self { kind: FailureKind::Unsupported, message: message.into() }
    }

    fn retry_may_help(&self) -> bool {
        match self.kind {
            FailureKind::BadSnapshot | FailureKind::Unsupported => false,
            FailureKind::OutOfMemory | FailureKind::Internal => true,
        }
    }
}

/// The last launch never became ready; no other before `until`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    /// End of the back-off.
    pub until: Instant,
    /// What the launch died of.
    pub failure: Failure,
}

/// Where the slot is in its life: the words of `/slots` and of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Phase {
    Cold,
    Starting,
    Ready,
    Draining,
    Failed,
}

impl Phase {
    /// Every phase, in order of life.
    pub const ALL: [Phase; 5] = [Phase::Cold, Phase::Starting, Phase::Ready, Phase::Draining, Phase::Failed];

    /// The word.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Cold => "cold",
            Phase::Starting => "starting",
            Phase::Ready => "ready",
            Phase::Draining => "draining",
            Phase::Failed => "failed",
        }
    }
}

/// What happens to a slot.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A request wants in.
    Arrived(RequestId, Claim),
    /// A request wants in that was admitted before, and has lost its runtime since.
    Returned(RequestId),
    /// It was answered, gave up or went away.
    Left(RequestId),
    /// There is room for a runtime.
    Placed(LaunchId),
    /// There is none for one that was to succeed another, unless that goes first.
    NoRoom(LaunchId),
    /// The runtime is to make room for another model's: what it answers it answers, and takes nothing new.
    Evicted(LaunchId),
    /// The runtime can produce a first token.
    BecameReady(LaunchId),
    /// No process could be started, so no exit will be seen.
    NotLaunched(LaunchId, Failure),
    /// The runtime was told by somebody else to end, and does.
    Leaves(LaunchId),
    /// The runtime said that it failed, or its sockets closed; its exit is yet to be seen.
    Broke(LaunchId, Failure),
    /// The exit was seen. The failure counts only if the runtime was never ready.
    Exited(LaunchId, Failure),
    /// Time has passed: look at the deadlines.
    Tick,
    /// The snapshot is another file than the one that failed.
    SnapshotChanged,
    /// Be started, though nobody asks.
    Wanted,
    /// The snapshot is another than the one that runs: new launches succeed those that are there, and those end when what they answer is over.
    Renew,
    /// Nobody needs what runs: it ends when what it answers is over.
    Unwanted,
    /// Other times and bounds from now on.
    NewPolicy(Policy),
    /// The activator ends: hold nothing, start nothing, be cold by the given time.
    Close {
        /// The runtime is killed then.
        give_up_at: Instant,
    },
}

/// What the owner must do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Find room for a runtime: [`Event::Placed`], [`Event::NotLaunched`] or, for a `surge` alone, [`Event::NoRoom`] says when or why not.
    Place {
        /// For which.
        launch: LaunchId,
        /// Now, and without a runtime that would have to go for it, or not at all.
        surge: bool,
    },
    /// It needs no room any more.
    Release(LaunchId),
    /// Start a runtime and let it restore the model.
    Launch(LaunchId),
    /// Tell the runtime to finish and exit.
    Drain(LaunchId),
    /// End the process now.
    Kill(LaunchId),
    /// Let the request through to this launch.
    Admit(RequestId, LaunchId),
    /// Turn the request away.
    Refuse(RequestId, Refusal),
}

/// What one event leads to, in order. Of most it is one at most, which takes no memory of its own.
pub type Effects = SmallVec<[Effect; 2]>;

/// Why a request was turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `hold_max` requests are held already.
    Full,
    /// As many of this tenant as may wait for this model do.
    TenantFull,
    /// As long as starts and answers took before, its deadline would have passed.
    TooLate {
        /// When it could be answered.
        retry_after: Duration,
    },
    /// The model cannot be started now.
    Failed {
        /// Why.
        failure: Failure,
        /// When it is worth asking again.
        retry_after: Duration,
    },
    /// The activator is ending.
    Closing,
    /// Runtimes died of it, or beside it, too often.
    Poison,
}

/// One model's place.
#[derive(Clone, Debug)]
pub struct Slot {
    policy: Policy,
    replicas: BTreeMap<LaunchId, Replica>,
    rest: Option<Rest>,
    held: Queue,
    /// Beginnings of the prompts of those who are held.
    prefixes: BTreeMap<RequestId, Prefixes>,
    pace: Pace,
    scale: Scale,
    /// Launches in a row that never became ready.
    failures: u32,
    launches: u64,
    /// To be started as soon as that can be, though nobody asks.
    wanted: bool,
    /// As `wanted`, but once.
    nudged: bool,
    /// Lives in a row that ended soon after they were ready.
    short_lives: u32,
    closing: bool,
}

impl Slot {
    /// A cold slot.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            replicas: BTreeMap::new(),
            rest: None,
            held: Queue::default(),
            prefixes: BTreeMap::new(),
            pace: Pace::default(),
            scale: Scale::default(),
            failures: 0,
            launches: 0,
            wanted: false,
            nudged: false,
            short_lives: 0,
            closing: false,
        }
    }

    /// Its runtimes, those that are wished for included.
    pub fn replicas(&self) -> &BTreeMap<LaunchId, Replica> {
        &self.replicas
    }

    /// Where one of its runtimes is in its life.
    pub fn stage(&self, launch: LaunchId) -> Option<&Stage> {
        self.replicas.get(&launch).map(|replica| &replica.stage)
    }

    /// Why it rests, if it does.
    pub fn rest(&self) -> Option<&Rest> {
        self.rest.as_ref()
    }

    /// Where it is in its life.
    pub fn phase(&self) -> Phase {
        let phase = |replica: &Replica| match replica.stage {
            Stage::Ready(_) => (2, Phase::Ready),
            Stage::Placing { .. } | Stage::Starting { .. } => (1, Phase::Starting),
            Stage::Draining { .. } => (0, Phase::Draining),
        };
        let best = self.replicas.values().map(phase).max_by_key(|(rank, _)| *rank);
        best.map_or(if self.rest.is_some() { Phase::Failed } else { Phase::Cold }, |(_, phase)| phase)
    }

    /// How many requests wait.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// How many requests are being answered.
    pub fn in_flight(&self) -> usize {
        self.ready().map(|(_, ready)| ready.in_flight.len()).sum()
    }

    /// How long its last start took, from having room to ready.
    pub fn start_took(&self) -> Option<Duration> {
        self.pace.start
    }

    /// Times and bounds.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// So many stay though nobody asks.
    pub fn min(&self) -> usize {
        self.policy.min
    }

    /// Runtimes that answer.
    pub fn ready_count(&self) -> usize {
        self.ready().count()
    }

    fn ready(&self) -> impl Iterator<Item = (LaunchId, &Ready)> {
        self.replicas.iter().filter_map(|(launch, replica)| match &replica.stage {
            Stage::Ready(ready) => Some((*launch, ready)),
            Stage::Placing { .. } | Stage::Starting { .. } | Stage::Draining { .. } => None,
        })
    }

    /// Those that answer, or will.
    fn active(&self) -> usize {
        self.replicas.values().filter(|replica| !matches!(replica.stage, Stage::Draining { .. })).count()
    }

    /// Somebody waits, or has said that it is to be there.
    fn is_asked_for(&self) -> bool {
        !self.held.is_empty() || self.wanted || self.nudged
    }

    /// How many runtimes there should be.
    fn desired(&self) -> usize {
        let asked = usize::from(self.is_asked_for());
        asked.max(self.policy.min).max(self.scale.desired()).min(self.policy.max.max(1))
    }

    /// Since when nobody is answered, where more is ready than must be.
    fn quiet_since(&self) -> Option<Instant> {
        if !self.held.is_empty() || self.ready().any(|(_, ready)| !ready.in_flight.is_empty()) {
            return None;
        }
        let quiet = self.ready().map(|(_, ready)| ready.idle_since).max();
        quiet.filter(|_| self.ready_count() > self.policy.min)
    }

    /// What most are that answer: one runtime, which is all that there should be, and nobody waits. Nothing is to be done.
    fn is_settled(&self) -> bool {
        let only = || self.replicas.len() == 1 && self.replicas.values().all(Replica::answers_on);
        self.policy.max <= 1 && self.policy.min <= 1 && self.held.is_empty() && self.rest.is_none() && only()
    }

    /// When [`Event::Tick`] will next do something.
    pub fn deadline(&self) -> Option<Instant> {
        let stages = self.replicas.values().filter_map(|replica| match &replica.stage {
            Stage::Starting { give_up_at, .. } => Some(*give_up_at),
            Stage::Draining { give_up_at, .. } => *give_up_at,
            Stage::Placing { .. } | Stage::Ready(_) => None,
        });
        let quiet = self.quiet_since().map(|since| since + self.policy.idle);
        let rest = self.rest.as_ref().map(|rest| rest.until);
        stages.chain(quiet).chain(rest).chain(self.scale.deadline()).min()
    }

    /// The one transition.
    pub fn next(&mut self, event: Event, now: Instant) -> Effects {
        let mut turn = turn::Turn { slot: self, now, effects: Effects::new() };
        match event {
            Event::Arrived(request, claim) => turn.arrived(request, claim),
            Event::Returned(request) => turn.returned(request),
            Event::Left(request) => turn.left(request),
            Event::Placed(launch) => turn.placed(launch),
            Event::NoRoom(launch) => turn.no_room(launch),
            Event::Evicted(launch) => turn.evicted(launch),
            Event::BecameReady(launch) => turn.became_ready(launch),
            Event::NotLaunched(launch, failure) => turn.not_launched(launch, failure),
            Event::Leaves(launch) => turn.leaves(launch),
            Event::Broke(launch, failure) => turn.broke(launch, failure),
            Event::Exited(launch, failure) => turn.exited(launch, failure),
            Event::Tick => turn.tick(),
            Event::SnapshotChanged => turn.snapshot_changed(),
            Event::Wanted => turn.wanted(),
            Event::Renew => turn.renew(),
            Event::Unwanted => turn.unwanted(),
            Event::NewPolicy(policy) => turn.new_policy(policy),
            Event::Close { give_up_at } => turn.close(give_up_at),
        }
        turn.settle();
        turn.slot.check_invariants();
        turn.effects
    }

    /// A held request waits for something that will come: an exit, a readiness, room, or the end of a back-off.
    fn check_invariants(&self) {
        debug_assert!(!self.closing || self.held.is_empty());
        debug_assert!(self.held.is_empty() || !self.replicas.is_empty() || self.rest.is_some());
        debug_assert!(
            self.held.is_empty() || self.ready().all(|(_, ready)| ready.in_flight.len() >= self.policy.concurrency)
        );
    }

    /// When a request of this tenant would be let through, as long as starts and answers took before. Too early rather than too late: others
    /// may come before it.
    fn could_be_answered_in(&self, tenant: TenantId, now: Instant) -> Duration {
        let start = self.pace.start.unwrap_or_default();
        let starts = self.replicas.values().filter_map(|replica| match replica.stage {
            Stage::Starting { began, .. } => Some(start.saturating_sub(now.saturating_duration_since(began))),
            Stage::Placing { .. } | Stage::Ready(_) | Stage::Draining { .. } => None,
        });
        let ready = self.ready_count();
        let rest = self.rest.as_ref().map_or(Duration::ZERO, |rest| rest.until.saturating_duration_since(now));
        let ready_in = if ready > 0 { Duration::ZERO } else { starts.min().unwrap_or(start + rest) };
        let places = self.policy.concurrency.saturating_mul(ready.max(1));
        ready_in + self.pace.wait(self.held.of(tenant), self.in_flight(), places)
    }

    /// Whether requests are answered at once with this failure rather than held for the next launch.
    fn turns_away(&self, failure: &Failure) -> bool {
        !failure.retry_may_help() || self.failures >= FAILURES_HELD_THROUGH
    }
}

/// The wait after so many failures in a row.
pub fn back_off(failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    (BACK_OFF_FIRST * 2u32.pow(doublings)).min(BACK_OFF_MAX)
}

#[cfg(test)]
mod tests;
