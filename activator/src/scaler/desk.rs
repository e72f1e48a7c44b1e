//! The one scaler, and who may work with it: its own loop ([`Desk::run`]), and the requests themselves.
//!
//! A request that finds nobody at the desk does there what it came for, so that on a hot model's way no task waits for another. Who finds
//! somebody at work leaves a word, which whoever comes next takes up first.
//!
//! **Invariants:** nobody else changes a slot. What takes time (starting a process) the loop alone does, and whatever a request changes that the
//! loop has to know of it is woken for. Requests come over a bounded channel; that they leave needs no room, as each that came does so once.
//! A panic at the desk is the scaler's end, whoever was there: nobody works with what it left, and all who wait are told.

use std::{
    ops::{Deref, DerefMut},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use futures_util::{Stream, StreamExt, stream::SelectAll};
use tokio::sync::{MappedMutexGuard, MutexGuard, Notify, mpsc};

use super::{Command, Scaler, SlotId, life::LifeId};
use crate::{
    child::ChildEvent,
    hold::{Arrival, Outcome},
    slot::RequestId,
};

/// Commands that are carried out, if so many are there, before anything else is looked at.
const COMMANDS_TOGETHER: usize = 64;

/// What one process says.
pub(super) type Heard = Pin<Box<dyn Stream<Item = (LifeId, ChildEvent)> + Send>>;

/// See the module.
pub struct Desk {
    /// `None` once it has ended.
    scaler: tokio::sync::Mutex<Option<Scaler>>,
    /// Requests that left while somebody was at work.
    left: Mutex<Vec<(SlotId, RequestId)>>,
    /// There is something for the loop to look at.
    look: Notify,
    /// Somebody panicked at it.
    broken: AtomicBool,
}

/// Somebody is at work.
struct AtWork<'a> {
    scaler: MappedMutexGuard<'a, Scaler>,
    desk: &'a Desk,
    /// Whoever leaves because of a panic elsewhere does so in order.
    unwinding: bool,
}

impl Desk {
    /// With nobody at work.
    pub fn new(scaler: Scaler) -> Self {
        Self {
            scaler: Some(scaler).into(),
            left: Mutex::default(),
            look: Notify::new(),
            broken: AtomicBool::new(false),
        }
    }

    /// A request that stands here asks to be let through.
    ///
    /// # Errors
    /// Somebody is at work: it is to be sent to the loop.
    pub fn arrive(&self, arrival: Arrival) -> Result<Outcome, Arrival> {
        let Some(mut scaler) = self.try_work() else { return Err(arrival) };
        let told = scaler.tell_at_desk(arrival);
        self.call_if_needed(&scaler);
        Ok(told)
    }

    /// A request's place is free again.
    pub fn leave(&self, slot: SlotId, request: RequestId) {
        match self.try_work() {
            Some(mut scaler) => {
                scaler.leave(slot, request);
                self.call_if_needed(&scaler);
            }
            None => {
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

    /// If nobody is.
    fn try_work(&self) -> Option<AtWork<'_>> {
        self.at_work(self.scaler.try_lock().ok()?)
    }

    /// As soon as nobody is; `None` if there is no scaler any more.
    async fn work(&self) -> Option<AtWork<'_>> {
        self.at_work(self.scaler.lock().await)
    }

    fn at_work<'a>(&'a self, scaler: MutexGuard<'a, Option<Scaler>>) -> Option<AtWork<'a>> {
        if self.broken.load(Ordering::Acquire) {
            return None;
        }
        let mut at_work = AtWork {
            scaler: MutexGuard::try_map(scaler, Option::as_mut).ok()?,
            desk: self,
            unwinding: std::thread::panicking(),
        };
        // Before anything that came after.
        let left = std::mem::take(&mut *self.left.lock().unwrap_or_else(PoisonError::into_inner));
        left.into_iter().for_each(|(slot, request)| at_work.leave(slot, request));
        Some(at_work)
    }

    /// Until [`Command::Close`] or [`Command::Kill`], and the end of every process. Commands come over the channel; processes are heard
    /// through their descriptors, time through the next deadline alone. There is no ticking and no polling.
    pub async fn run(self: Arc<Self>, mut commands: mpsc::Receiver<Command>) {
        let _end = End(&self);
        let (mut heard, mut together, mut alone) = (SelectAll::<Heard>::new(), Vec::new(), false);
        while let Some(deadline) = self.do_what_is_to_do(&mut heard).await {
            tokio::select! {
                count = commands.recv_many(&mut together, COMMANDS_TOGETHER), if !alone => {
                    let Some(mut scaler) = self.work().await else { return };
                    // Nobody can say anything any more.
                    alone = count == 0;
                    if alone {
                        scaler.kill_all();
                    }
                    together.drain(..).for_each(|command| scaler.obey(command));
                }
                Some((life, event)) = heard.next() => {
                    let Some(mut scaler) = self.work().await else { return };
                    scaler.hear(life, event);
                }
                () = self.look.notified() => {}
                () = until(deadline) => {
                    let Some(mut scaler) = self.work().await else { return };
                    scaler.tick();
                }
            }
        }
    }

    /// Whatever is to be done now; the next deadline, if there is any. `None` at the end of all.
    async fn do_what_is_to_do(&self, heard: &mut SelectAll<Heard>) -> Option<Option<Instant>> {
        let mut scaler = self.work().await?;
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

impl Deref for AtWork<'_> {
    type Target = Scaler;

    fn deref(&self) -> &Scaler {
        &self.scaler
    }
}

impl DerefMut for AtWork<'_> {
    fn deref_mut(&mut self) -> &mut Scaler {
        &mut self.scaler
    }
}

impl Drop for AtWork<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.unwinding {
            self.desk.broken.store(true, Ordering::Release);
            self.desk.look.notify_one();
        }
    }
}

/// The loop's, however that comes: without it there is no scaler. Runtimes end as their control sockets do, and who waits hears of it.
struct End<'a>(&'a Desk);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.broken.store(true, Ordering::Release);
        loop {
            if let Ok(mut scaler) = self.0.scaler.try_lock() {
                return drop(scaler.take());
            }
            // Who is at work meanwhile is a request, which waits for nothing there.
            std::thread::yield_now();
        }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        config::{Config, KnativeLabels},
        hold::Gate,
        metrics::Metrics,
        slot::{Claim, Refusal, TenantId},
    };

    fn desk() -> Arc<Desk> {
        let metrics = Metrics::new(&KnativeLabels::default());
        Arc::new(Desk::new(Scaler::new(&Config::default(), Arc::from([]), metrics).0))
    }

    #[test]
    fn who_panics_elsewhere_leaves_in_order() {
        struct Leaving(Arc<Desk>);
        impl Drop for Leaving {
            fn drop(&mut self) {
                assert!(self.0.try_work().is_some());
            }
        }
        let desk = desk();
        let leaving = Leaving(desk.clone());
        let panicked = std::thread::spawn(move || {
            let _leaving = leaving;
            panic!("elsewhere");
        });
        assert!(panicked.join().is_err());
        assert!(desk.try_work().is_some());
    }

    #[tokio::test]
    async fn a_panic_at_the_desk_is_the_end_of_it_and_nobody_waits() {
        let desk = desk();
        let (commands, orders) = mpsc::channel(8);
        let gate = Gate::new(desk.clone(), commands.clone());
        let running = tokio::spawn(desk.clone().run(orders));
        let nobodys = desk.clone();
        // There is no such slot. Where the loop was at work it finds that itself.
        let _panicked = std::thread::spawn(move || nobodys.leave(SlotId(7), RequestId(1))).join();
        let _ended = running.await;
        assert!(commands.is_closed() && desk.try_work().is_none());
        let (weight, hold_max) = (1, 1);
        let deadline = Instant::now() + std::time::Duration::from_secs(60);
        let claim = Claim { tenant: TenantId(0), weight, priority: 0, hold_max, deadline, prefixes: Vec::new() };
        let refused = gate.admit(SlotId(0), claim, (None, false), false).await;
        assert_eq!(refused.unwrap_err(), Refusal::Closing);
    }
}
