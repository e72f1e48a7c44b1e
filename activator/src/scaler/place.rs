//! What the pure machine of a slot does not know: names, files, processes, and who waits for an answer.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fs::{File, Metadata},
    os::unix::fs::MetadataExt,
    path::PathBuf,
};

use protocol::control::{GuestId, Stats};
use serde::Serialize;

use super::life::{ColdStart, LifeId};
use crate::{
    hold::Reply,
    metrics::OfSlot,
    placement::Need,
    plugins::Plugins,
    settings::SlotSpec,
    slot::{Failure, LaunchId, Phase, Policy, RequestId, Slot, Stage},
};

/// Launches ended by others that are remembered.
const KILLS_MAX: usize = 64;

/// A request's wish to be told, held or at the desk.
#[derive(Debug)]
pub struct Waiting {
    /// Where to.
    pub reply: Reply,
    /// The slot was not ready when the request arrived.
    pub cold: bool,
    /// The launch that it lost.
    pub lost: Option<LaunchId>,
    /// It waits to hear that somebody outside has ended that one.
    pub suspect: bool,
}

/// Tells one file from another, or from itself as it was, without reading it: device, inode, size, times of change of content and of
/// anything.
type Stamp = (u64, u64, u64, (i64, i64), (i64, i64));

/// One model.
#[derive(Debug)]
pub struct Place {
    /// What clients ask for.
    pub name: String,
    /// Its sealed file.
    pub snapshot: PathBuf,
    /// Of the file as it was when the configuration was read; `None` if its header could not be read.
    pub digest: Option<String>,
    /// The processes that are alive.
    pub lives: BTreeMap<LaunchId, LifeId>,
    /// What was last told of its slot.
    pub told: Told,
    /// To whom, once there was something to tell.
    pub gauges: Option<Box<OfSlot>>,
    /// Who is held.
    pub waiting: HashMap<RequestId, Waiting>,
    /// The last cold start that became ready.
    pub last_cold_start: Option<ColdStart>,
    /// What requests go through, where that is said here and not by the snapshot.
    pub plugins: Option<Plugins>,
    /// What its runtimes say that theirs go through.
    pub guests: BTreeMap<LaunchId, Vec<GuestId>>,
    /// What its runtimes last said of their engines.
    pub engines: BTreeMap<LaunchId, Stats>,
    /// As configured.
    policy: Policy,
    need: Need,
    /// Memory for keys and values, if that is said.
    pub kv_memory_bytes: Option<u64>,
    /// What an operator wishes in place of the policy's `keep`.
    pinned: Option<bool>,
    /// Its model is gone from the configuration.
    retired: bool,
    /// The last launches that somebody outside has ended.
    killed_by_others: VecDeque<LaunchId>,
    stamp: Option<Stamp>,
    /// The file that a runtime has verified whole. Open, so that no other gets its inode.
    verified: Option<(Stamp, File)>,
}

/// What metrics and watchers know of a slot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Told {
    /// Its phase, how many are held, are in flight, answer, and wait for room.
    pub counts: (Phase, [usize; 4]),
    /// Whether something starts.
    pub starts: bool,
    /// The end of its rest, if it rests.
    pub rests_until: Option<std::time::Instant>,
}

impl Told {
    /// Of a slot as it is.
    pub fn of(slot: &Slot) -> Self {
        let (mut in_flight, mut ready, mut waits_for_room, mut starts) = (0, 0, 0, false);
        for replica in slot.replicas().values() {
            match &replica.stage {
                Stage::Ready(of) => {
                    in_flight += of.in_flight.len();
                    ready += 1;
                }
                Stage::Placing { .. } => waits_for_room += 1,
                Stage::Starting { .. } => starts = true,
                Stage::Draining { .. } => {}
            }
        }
        Self {
            counts: (slot.phase(), [slot.held(), in_flight, ready, waits_for_room]),
            starts,
            rests_until: slot.rest().map(|rest| rest.until),
        }
    }
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
    /// Processes that it is to have and that wait for room on a slice.
    pub waits_for_room: usize,
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
    /// The snapshot's digest when the configuration was read.
    pub digest: Option<String>,
}

/// One process of a slot.
#[derive(Clone, Debug, Serialize)]
pub struct Replica {
    /// Its process id.
    pub pid: i32,
    /// Where it is in its life.
    pub state: Phase,
    /// Requests being answered by it.
    pub in_flight: usize,
    /// Where it is.
    pub slice: Option<String>,
    /// What its requests go through, in this order.
    pub guests: Vec<GuestId>,
}

impl Place {
    /// A cold slot.
    pub fn new(spec: SlotSpec) -> Self {
        let SlotSpec { entry, digest, policy, need, kv_memory_bytes, retired } = spec;
        Self {
            name: entry.name,
            snapshot: entry.snapshot,
            digest,
            lives: BTreeMap::new(),
            told: Told::of(&Slot::new(policy)),
            gauges: None,
            plugins: entry.guests,
            guests: BTreeMap::new(),
            engines: BTreeMap::new(),
            waiting: HashMap::new(),
            last_cold_start: None,
            policy,
            need,
            kv_memory_bytes,
            pinned: None,
            retired,
            killed_by_others: VecDeque::new(),
            stamp: None,
            verified: None,
        }
    }

    /// Is another from now on; the policy that its slot is to have. Its runtimes have the guests that they had ([`Place::exchange`]).
    pub fn reconfigure(&mut self, spec: SlotSpec) -> Policy {
        let SlotSpec { entry, digest, policy, need, kv_memory_bytes, retired } = spec;
        (self.snapshot, self.digest, self.policy, self.retired) = (entry.snapshot, digest, policy, retired);
        (self.need, self.kv_memory_bytes) = (need, kv_memory_bytes);
        if retired {
            self.pinned = None;
        }
        self.policy()
    }

    /// Has these guests from now on; whether they are others. Where there are none any more, its snapshot passes for another one: only a new
    /// runtime has that one's own.
    pub fn exchange(&mut self, plugins: Option<Plugins>) -> bool {
        if plugins == self.plugins {
            return false;
        }
        self.plugins = plugins;
        if self.plugins.is_none() {
            self.stamp = None;
        }
        true
    }

    /// A launch is gone. If nobody else has ended it, those may have that are suspected; they come no further.
    pub fn ended(&mut self, launch: LaunchId, by_others: bool) -> Vec<RequestId> {
        if by_others {
            self.killed_by_others.truncate(KILLS_MAX - 1);
            self.killed_by_others.push_front(launch);
            return Vec::new();
        }
        let waits = |waiting: &Waiting| waiting.suspect && waiting.lost == Some(launch);
        self.waiting.iter().filter(|(_, waiting)| waits(waiting)).map(|(request, _)| *request).collect()
    }

    /// Whether somebody outside has ended this launch: no request is to blame.
    pub fn was_killed_by_others(&self, launch: LaunchId) -> bool {
        self.killed_by_others.contains(&launch)
    }

    /// The policy that its slot is to have.
    pub fn policy(&self) -> Policy {
        let min = match self.pinned {
            Some(true) => self.policy.min.max(1),
            Some(false) => 0,
            None => self.policy.min,
        };
        Policy { min, ..self.policy }
    }

    /// What each of its runtimes needs.
    pub fn need(&self) -> Need {
        self.need.clone()
    }

    /// As [`Place::policy`], with an operator's wish.
    pub fn pin(&mut self, keep: Option<bool>) -> Policy {
        self.pinned = keep;
        self.policy()
    }

    /// Nothing is left of a model that is gone.
    pub fn is_gone(&self, slot: &Slot) -> bool {
        self.retired && slot.phase() == Phase::Cold
    }

    /// A process runs, starts, or is about to be started for, another file than the one that is there now.
    pub fn runs_another_snapshot(&self, slot: &Slot) -> bool {
        let alive = |stage: &Stage| matches!(stage, Stage::Starting { .. } | Stage::Ready(_));
        let alive = slot.replicas().values().any(|replica| alive(&replica.stage));
        // A file that is not there is no other: what runs goes on.
        alive && !self.retired && std::fs::metadata(&self.snapshot).is_ok_and(|now| Some(stamp(&now)) != self.stamp)
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

    /// What lies beside an encrypted snapshot, if anything does; whether it is a key is the runtime's matter.
    pub fn wrapped_key(&self) -> Option<String> {
        snapshot::wrapped_key(&self.snapshot).ok()
    }

    /// The file that was opened last has been verified before, and nobody has changed it since.
    pub fn is_verified(&self) -> bool {
        self.stamp.is_some() && self.verified.as_ref().map(|(stamp, _)| *stamp) == self.stamp
    }

    /// The file that was opened last has been verified, if it is still what it was.
    pub fn was_verified(&mut self) {
        let now = File::open(&self.snapshot).and_then(|file| Ok((stamp(&file.metadata()?), file)));
        self.verified = now.ok().filter(|(now, _)| Some(*now) == self.stamp);
    }

    /// Whether a slot that failed now has another file to try.
    pub fn snapshot_changed(&self, slot: &Slot) -> bool {
        // Who does not rest has not failed.
        slot.rest().is_some()
            && slot.phase() == Phase::Failed
            && std::fs::metadata(&self.snapshot).ok().is_some_and(|now| Some(stamp(&now)) != self.stamp)
    }

    /// As `/slots` shows it. `process`: pid and slice of a launch, while it is alive. Resident memory is not looked up here.
    pub fn view(&self, slot: &Slot, process: impl Fn(LaunchId, LifeId) -> Option<(i32, Option<String>)>) -> SlotView {
        let replica = |(launch, life): (&LaunchId, &LifeId)| {
            let (pid, slice) = process(*launch, *life)?;
            let (state, in_flight) = match slot.stage(*launch)? {
                Stage::Ready(ready) => (Phase::Ready, ready.in_flight.len()),
                Stage::Placing { .. } | Stage::Starting { .. } => (Phase::Starting, 0),
                Stage::Draining { .. } => (Phase::Draining, 0),
            };
            let guests = self.guests.get(launch).cloned().unwrap_or_default();
            Some(Replica { pid, state, in_flight, slice, guests })
        };
        let waits = slot.replicas().values().filter(|replica| matches!(replica.stage, Stage::Placing { .. }));
        SlotView {
            name: self.name.clone(),
            state: slot.phase(),
            replicas: self.lives.iter().filter_map(replica).collect(),
            waits_for_room: waits.count(),
            in_flight: slot.in_flight(),
            held: slot.held(),
            resident_bytes: 0,
            last_cold_start: self.last_cold_start,
            failure: slot.rest().map(|rest| rest.failure.message.to_string()),
            digest: self.digest.clone(),
        }
    }
}

fn stamp(metadata: &Metadata) -> Stamp {
    let (content, anything) = ((metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec()));
    (metadata.dev(), metadata.ino(), metadata.size(), content, anything)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::{Config, ModelEntry};
    use std::{fs, time::Duration};

    #[test]
    fn a_file_is_verified_until_it_is_another_or_was_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("snapshot");
        fs::write(&path, b"one").unwrap();
        let entry = ModelEntry::new("m", path.clone());
        let policy = Config::default().policy(&entry);
        let mut place = Place::new(SlotSpec {
            entry,
            digest: None,
            policy,
            need: Need::default(),
            kv_memory_bytes: None,
            retired: false,
        });
        place.was_verified();
        place.open_snapshot().unwrap();
        assert!(!place.is_verified(), "nothing had been opened when that was said");
        place.was_verified();
        place.open_snapshot().unwrap();
        assert!(place.is_verified());
        let changed_in_place = || fs::write(&path, b"two").unwrap();
        let replaced = || {
            fs::write(folder.path().join("other"), b"two").unwrap();
            fs::rename(folder.path().join("other"), &path).unwrap();
        };
        for change in [&changed_in_place as &dyn Fn(), &replaced] {
            // Times on disk have the grain of the kernel's ticks.
            std::thread::sleep(Duration::from_millis(30));
            change();
            place.open_snapshot().unwrap();
            assert!(!place.is_verified());
            place.was_verified();
            assert!(place.is_verified());
        }
        // Changed between the opening and the verdict.
        std::thread::sleep(Duration::from_millis(30));
        changed_in_place();
        place.was_verified();
        assert!(!place.is_verified());
    }
}
