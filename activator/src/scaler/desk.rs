//! The one scaler, and who may work with it: its own loop ([`Desk::run`]), and the requests themselves.
//!
//! A request that finds nobody at the desk does there what it came for, so that on a hot model's way no task waits for another. Who finds
//! somebody at work leaves a word, which the loop takes up.
//!
//! **Invariants:** nobody else changes a slot. What takes time (starting a process) the loop alone does, and whatever a request changes that the
//! loop has to know of it is woken for. Requests come over a bounded channel; that they leave needs no room, as each does so once.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use futures_util::{Stream, StreamExt, stream::SelectAll};
use tokio::sync::{Notify, mpsc};

use super::{Command, Scaler, SlotId, life::LifeId};
use crate::{child::ChildEvent, hold::Arrival, slot::RequestId};

/// Commands that are carried out, if so many are there, before anything else is looked at.
const COMMANDS_TOGETHER: usize = 64;

/// What one process says.
pub(super) type Heard = Pin<Box<dyn Stream<Item = (LifeId, ChildEvent)> + Send>>;

/// See the module.
pub struct Desk {
    scaler: tokio::sync::Mutex<Scaler>,
    /// Requests that left while somebody was at work.
    left: Mutex<Vec<(SlotId, RequestId)>>,
    /// There is something for the loop to look at.
    look: Notify,
}

impl Desk {
    /// With nobody at work.
    pub fn new(scaler: Scaler) -> Self {
        Self { scaler: scaler.into(), left: Mutex::default(), look: Notify::new() }
    }

    /// A request asks to be let through. Its answer comes where it says, at once if that is possible.
    ///
    /// # Errors
    /// Somebody is at work: it is to be sent to the loop.
    pub fn arrive(&self, arrival: Arrival) -> Result<(), Arrival> {
        let Ok(mut scaler) = self.scaler.try_lock() else { return Err(arrival) };
        scaler.arrive(arrival);
        self.call_if_needed(&scaler);
        Ok(())
    }

    /// A request's place is free again.
    pub fn leave(&self, slot: SlotId, request: RequestId) {
        match self.scaler.try_lock() {
            Ok(mut scaler) => {
                scaler.leave(slot, request);
                self.call_if_needed(&scaler);
            }
            Err(_at_work) => {
                self.left.lock().unwrap_or_else(PoisonError::into_inner).push((slot, request));
                self.look.notify_one();
            }
        }
    }

    fn call_if_needed(&self, scaler: &Scaler) {
        if scaler.has_work() {
            self.look.notify_one();
        }
    }

    /// Until [`Command::Close`] or [`Command::Kill`], and the end of every process. Commands come over the channel; processes are heard
    /// through their descriptors, time through the next deadline alone. There is no ticking and no polling.
    pub async fn run(self: Arc<Self>, mut commands: mpsc::Receiver<Command>) {
        let (mut heard, mut together, mut alone) = (SelectAll::<Heard>::new(), Vec::new(), false);
        while let Some(deadline) = self.work(&mut heard).await {
            tokio::select! {
                count = commands.recv_many(&mut together, COMMANDS_TOGETHER), if !alone => {
                    let mut scaler = self.scaler.lock().await;
                    // Nobody can say anything any more.
                    alone = count == 0;
                    if alone {
                        scaler.kill_all();
                    }
                    together.drain(..).for_each(|command| scaler.obey(command));
                }
                Some((life, event)) = heard.next() => self.scaler.lock().await.hear(life, event),
                () = self.look.notified() => {}
                () = until(deadline) => self.scaler.lock().await.tick(),
            }
        }
    }

    /// Whatever is to be done now; the next deadline, if there is any. `None` at the end of all.
    async fn work(&self, heard: &mut SelectAll<Heard>) -> Option<Option<Instant>> {
        let mut scaler = self.scaler.lock().await;
        let left = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        left.into_iter().for_each(|(slot, request)| scaler.leave(slot, request));
        scaler.launch_wished().await;
        scaler.tell_if_quiet();
        if scaler.is_over() {
            return None;
        }
        scaler.replenish_standbys().await;
        heard.extend(scaler.begun.drain(..));
        Some(scaler.plan())
    }
}

/// Pends without a deadline.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}
