//! One model's place in the activator, as a pure state machine.
//!
//! ```text
//!          Arrived                 BecameReady                idle, or Close
//!  Cold ───────────► Starting ───────────────► Ready ───────────────────► Draining ──► Cold
//!   ▲                   │  not ready in time, Broke  │ Broke        exit seen ▲ │
//!   │                   └──────────────► Draining ◄──┘                        │ │ it ended before it
//!   │   until           exit seen before Ready                                │ ▼ was ever ready
//!   └─────────────────────────── Failed ◄───────────────────────────────────────┘
//! ```
//!
//! **Invariants:** never two launches alive; a request is held only while a launch is alive or a retry is due; whoever
//! is held is admitted, refused, or has left, in the order of the queue (`slot/queue.rs`), and while somebody is held a ready slot answers as
//! many as it may; a launch is forgotten only once its exit has been seen. Nothing here reads a clock, spawns or awaits: time is an argument
//! and [`Effect`]s are data, run by the scaler.

mod pace;
mod queue;
mod turn;

pub use queue::{AGEING, Claim, TenantId, WEIGHT_MAX};

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use pace::Pace;
use protocol::control::FailureKind;
use queue::Queue;

/// The first wait after a launch that never became ready; each further one in a row doubles it.
pub const BACK_OFF_FIRST: Duration = Duration::from_millis(250);

/// No back-off is longer.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(30);

/// A model that is kept is started again at once only if it lived at least so long.
pub const SHORT_LIFE: Duration = Duration::from_secs(30);

/// As many failures in a row turn held requests away instead of holding them further.
pub const FAILURES_HELD_THROUGH: u32 = 3;

/// One life of a runtime process in one slot. Unique and growing within its slot; also names its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaunchId(pub u64);

/// One admission of one request. Unique and growing, so that order is order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A slot's times and bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    /// Requests that are let through at the same time; further ones are held.
    pub concurrency: usize,
    /// It is started without a request, and never drained for want of one.
    pub keep: bool,
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

    fn retry_may_help(&self) -> bool {
        match self.kind {
            FailureKind::BadSnapshot | FailureKind::Unsupported => false,
            FailureKind::OutOfMemory | FailureKind::Internal => true,
        }
    }
}

/// Where the slot is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// No process.
    Cold,
    /// A process is on its way to its first token.
    Starting {
        /// Which.
        launch: LaunchId,
        /// Since when.
        began: Instant,
        /// Killed if not ready by then.
        give_up_at: Instant,
    },
    /// Requests go straight through.
    Ready {
        /// Whose endpoint they go to.
        launch: LaunchId,
        /// Who is being answered, since when.
        in_flight: BTreeMap<RequestId, Instant>,
        /// When the last of them ended; meaningful while there is none.
        idle_since: Instant,
    },
    /// The process has been told to end, or is being killed; it is alive until its exit is seen.
    Draining {
        /// Which.
        launch: LaunchId,
        /// Killed if it has not exited by then; `None` once that has been done.
        give_up_at: Option<Instant>,
        /// Why it ends, if it was never ready.
        failure: Option<Failure>,
    },
    /// The last launch never became ready; no other before `until`.
    Failed {
        /// End of the back-off.
        until: Instant,
        /// What the launch died of.
        failure: Failure,
    },
}

/// [`State`] without its data: the words of `/slots` and of the metrics.
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A request wants in.
    Arrived(RequestId, Claim),
    /// A request wants in that was admitted before, and has lost its runtime since.
    Returned(RequestId),
    /// It was answered, gave up or went away.
    Left(RequestId),
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
    /// What runs is to end, and what comes is to be answered by a new launch: the snapshot is another than the one that runs.
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
    state: State,
    held: Queue,
    pace: Pace,
    /// Launches in a row that never became ready.
    failures: u32,
    launches: u64,
    /// To be started as soon as that can be, though nobody asks.
    wanted: bool,
    /// Lives in a row that ended soon after they were ready, and when the last began.
    short_lives: u32,
    ready_at: Option<Instant>,
    closing: bool,
}

impl Slot {
    /// A cold slot.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            state: State::Cold,
            held: Queue::default(),
            pace: Pace::default(),
            failures: 0,
            launches: 0,
            wanted: false,
            short_lives: 0,
            ready_at: None,
            closing: false,
        }
    }

    /// Where it is in its life.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Where it is in its life, without the data.
    pub fn phase(&self) -> Phase {
        match self.state {
            State::Cold => Phase::Cold,
            State::Starting { .. } => Phase::Starting,
            State::Ready { .. } => Phase::Ready,
            State::Draining { .. } => Phase::Draining,
            State::Failed { .. } => Phase::Failed,
        }
    }

    /// How many requests wait.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// How many requests are being answered.
    pub fn in_flight(&self) -> usize {
        match &self.state {
            State::Ready { in_flight, .. } => in_flight.len(),
            State::Cold | State::Starting { .. } | State::Draining { .. } | State::Failed { .. } => 0,
        }
    }

    /// The process that is alive, if one is.
    pub fn launch(&self) -> Option<LaunchId> {
        match self.state {
            State::Starting { launch, .. } | State::Ready { launch, .. } | State::Draining { launch, .. } => {
                Some(launch)
            }
            State::Cold | State::Failed { .. } => None,
        }
    }

    /// When [`Event::Tick`] will next do something.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Cold => None,
            State::Starting { give_up_at, .. } => Some(*give_up_at),
            State::Ready { in_flight, idle_since, .. } => {
                (in_flight.is_empty() && !self.policy.keep).then(|| *idle_since + self.policy.idle)
            }
            State::Draining { give_up_at, .. } => *give_up_at,
            State::Failed { until, .. } => Some(*until),
        }
    }

    /// The one transition.
    pub fn next(self, event: Event, now: Instant) -> (Self, Vec<Effect>) {
        let mut turn = turn::Turn { slot: self, now, effects: Vec::new() };
        match event {
            Event::Arrived(request, claim) => turn.arrived(request, &claim),
            Event::Returned(request) => turn.returned(request),
            Event::Left(request) => turn.left(request),
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
        turn.slot.check_invariants();
        (turn.slot, turn.effects)
    }

    /// A held request waits for something that will come: an exit, a readiness, or the end of a back-off.
    fn check_invariants(&self) {
        debug_assert!(!self.closing || self.held.is_empty());
        debug_assert!(match &self.state {
            State::Cold => self.held.is_empty(),
            State::Ready { in_flight, .. } => self.held.is_empty() || in_flight.len() >= self.policy.concurrency,
            State::Failed { failure, .. } => self.held.is_empty() || !self.turns_away(failure),
            State::Starting { .. } | State::Draining { .. } => true,
        });
    }

    /// When a request of this tenant would be let through, as long as starts and answers took before. Too early rather than too late: others
    /// may come before it.
    fn could_be_answered_in(&self, tenant: TenantId, now: Instant) -> Duration {
        let start = self.pace.start.unwrap_or_default();
        let (ready_in, busy) = match &self.state {
            State::Ready { in_flight, .. } => (Duration::ZERO, in_flight.len()),
            State::Starting { began, .. } => (start.saturating_sub(now.saturating_duration_since(*began)), 0),
            State::Cold | State::Draining { .. } => (start, 0),
            State::Failed { until, .. } => (until.saturating_duration_since(now) + start, 0),
        };
        ready_in + self.pace.wait(self.held.of(tenant), busy, self.policy.concurrency)
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
