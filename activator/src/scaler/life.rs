//! One runtime process as the scaler sees it.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use protocol::control::{RestoreTimings, ToRuntime};
use serde::Serialize;

use super::SlotId;
use crate::{child::Child, endpoint::Endpoint, hold::Times, launcher::Launched, slot::LaunchId};

/// A process whose sockets have closed may take so long to be gone.
const DYING_MAX: Duration = Duration::from_millis(50);

/// One process. Unique among all slots and standbys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LifeId(pub u64);

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To be handed a model; killed if it is not launched by then.
    Standby {
        /// The deadline, while it has one.
        give_up_at: Option<Instant>,
    },
    /// A slot's.
    Slot(SlotId, LaunchId),
    /// A standby that is being killed.
    Dismissed,
}

/// One process.
#[derive(Debug)]
pub struct Life {
    /// Its process.
    pub child: Child,
    /// Its HTTP side.
    pub endpoint: Endpoint,
    /// What it is for.
    pub role: Role,
    /// Where it is.
    pub slice: Option<usize>,
    /// When it did what.
    pub times: Times,
    /// It was a standby when its model came.
    pub was_standby: bool,
    /// It was told to end: what it loses from then on has died of nothing.
    pub leaving: Arc<AtomicBool>,
    /// We have ended it.
    pub killed: Arc<AtomicBool>,
    /// It has had guests that may be shown a request once alone.
    pub once: Arc<AtomicBool>,
}

/// Where the time of a cold start went.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ColdStart {
    /// A standby was there already.
    pub standby: bool,
    /// From the start of the process (or, with a standby, from the wish for one) to its being launched.
    pub launch_ms: f64,
    /// From then to ready, as the activator saw it.
    pub restore_ms: f64,
    /// The restore as the runtime saw it.
    pub restore: RestoreTimings,
}

impl Life {
    /// A process that has just been started.
    pub fn new(launched: &Launched, role: Role, slice: Option<usize>, spawned: Instant) -> Self {
        Self {
            child: launched.child.clone(),
            endpoint: launched.endpoint.clone(),
            role,
            slice,
            times: Times { spawned, launched: None, handed: None, ready: None },
            was_standby: false,
            leaving: Arc::default(),
            killed: Arc::default(),
            once: Arc::default(),
        }
    }

    /// Ends it. One that is dying already is let die, so that it can be told what it died of.
    pub fn kill(&self) {
        let (child, killed) = (self.child.clone(), self.killed.clone());
        tokio::spawn(async move {
            if tokio::time::timeout(DYING_MAX, child.gone()).await.is_err() {
                killed.store(true, Ordering::Release);
                child.kill();
            }
        });
    }

    /// Hands it its model: whether that has been verified, its wrapped key, and memory for keys and values. It need not be launched yet: the
    /// message waits for it.
    pub fn restore(
        &mut self,
        model: &str,
        snapshot: &OwnedFd,
        (verified, wrapped_key, kv_memory_bytes): (bool, Option<String>, Option<u64>),
        now: Instant,
    ) -> std::io::Result<()> {
        self.times.handed = Some(now);
        let message = ToRuntime::Restore { model: model.to_owned(), kv_memory_bytes, verified, wrapped_key };
        self.child.tell(&message, Some(snapshot))
    }

    /// Where the time went, once it is ready.
    pub fn cold_start(&self, restore: RestoreTimings) -> Option<ColdStart> {
        let (handed, launched) = (self.times.handed?, self.times.launched?);
        let began = if self.was_standby { handed } else { self.times.spawned };
        let milliseconds = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1e3;
        Some(ColdStart {
            standby: self.was_standby,
            launch_ms: milliseconds(began, launched),
            restore_ms: milliseconds(self.times.restoring()?, self.times.ready?),
            restore,
        })
    }
}
