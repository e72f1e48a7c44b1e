//! A slot with what the pure machine does not know: names, files, and who waits for an answer.

use std::{
    collections::HashMap,
    fs::{File, Metadata},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    time::Instant,
};

use protocol::control::Stats;
use serde::Serialize;
use tokio::sync::oneshot;

use super::life::{ColdStart, LifeId};
use crate::{
    hold::Grant,
    slot::{Effect, Event, Failure, Phase, Policy, Refusal, RequestId, Slot, State},
};

/// One held request's wish to be told.
#[derive(Debug)]
pub struct Waiting {
    /// Where to.
    pub reply: oneshot::Sender<Result<Grant, Refusal>>,
    /// The slot was not ready when the request arrived.
    pub cold: bool,
}

/// Tells one file from another without reading it.
type Stamp = (u64, u64, i64, i64, u64);

/// One model.
#[derive(Debug)]
pub struct Place {
    /// What clients ask for.
    pub name: String,
    /// Its sealed file.
    pub snapshot: PathBuf,
    /// Of the file as it was when `serve` began; `None` if its header could not be read.
    pub digest: Option<String>,
    /// Where it is in its life.
    pub slot: Slot,
    /// The process that is alive, if one is.
    pub life: Option<LifeId>,
    /// Who is held.
    pub waiting: HashMap<RequestId, Waiting>,
    /// The last cold start that became ready.
    pub last_cold_start: Option<ColdStart>,
    /// What its runtime last said of its engine.
    pub engine: Stats,
    policy: Policy,
    stamp: Option<Stamp>,
}

/// One model, as `/slots` shows it.
#[derive(Clone, Debug, Serialize)]
pub struct SlotView {
    /// What clients ask for.
    pub name: String,
    /// Where it is in its life.
    pub state: Phase,
    /// Its processes.
    pub replicas: Vec<Replica>,
    /// Requests being answered.
    pub in_flight: usize,
    /// Requests that wait.
    pub held: usize,
    /// Resident memory of its processes, in bytes, mapped pages of the snapshot included.
    pub resident_bytes: u64,
    /// Where the time of the last cold start went.
    pub last_cold_start: Option<ColdStart>,
    /// Why the last launch failed, while the slot has failed.
    pub failure: Option<String>,
    /// The snapshot's digest when `serve` began.
    pub digest: Option<String>,
}

/// One process of a slot.
#[derive(Clone, Debug, Serialize)]
pub struct Replica {
    /// Its process id.
    pub pid: i32,
    /// Requests being answered by it.
    pub in_flight: usize,
}

impl Place {
    /// A cold slot.
    pub fn new(name: String, snapshot: PathBuf, digest: Option<String>, policy: Policy) -> Self {
        Self {
            name,
            snapshot,
            digest,
            slot: Slot::new(policy),
            life: None,
            engine: Stats::default(),
            waiting: HashMap::new(),
            last_cold_start: None,
            policy,
            stamp: None,
        }
    }

    /// Works one event into the slot.
    pub fn advance(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        let slot = std::mem::replace(&mut self.slot, Slot::new(self.policy));
        let (slot, effects) = slot.next(event, now);
        self.slot = slot;
        effects
    }

    /// Opens the snapshot and remembers which file that was.
    pub fn open_snapshot(&mut self) -> Result<File, Failure> {
        let failed = |error: std::io::Error| Failure {
            kind: protocol::control::FailureKind::BadSnapshot,
            message: format!("cannot open the snapshot {}: {error}", self.snapshot.display()).into(),
        };
        self.stamp = None;
        let file = File::open(&self.snapshot).map_err(failed)?;
        self.stamp = Some(stamp(&file.metadata().map_err(failed)?));
        Ok(file)
    }

    /// Whether a slot that failed now has another file to try.
    pub fn snapshot_changed(&self) -> bool {
        let failed = matches!(self.slot.state(), State::Failed { .. });
        failed && std::fs::metadata(&self.snapshot).ok().is_some_and(|now| Some(stamp(&now)) != self.stamp)
    }

    /// As `/slots` shows it, with the pid of its process if one is alive. Resident memory is not looked up here.
    pub fn view(&self, pid: Option<i32>) -> SlotView {
        let in_flight = self.slot.in_flight();
        SlotView {
            name: self.name.clone(),
            state: self.slot.phase(),
            replicas: pid.into_iter().map(|pid| Replica { pid, in_flight }).collect(),
            in_flight,
            held: self.slot.held(),
            resident_bytes: 0,
            last_cold_start: self.last_cold_start,
            failure: match self.slot.state() {
                State::Failed { failure, .. } => Some(failure.message.to_string()),
                State::Cold | State::Starting { .. } | State::Ready { .. } | State::Draining { .. } => None,
            },
            digest: self.digest.clone(),
        }
    }
}

fn stamp(metadata: &Metadata) -> Stamp {
    (metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.size())
}
