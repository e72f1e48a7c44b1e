//! The engine from outside: submit jobs, read their events, see its numbers. Bounded everywhere; dropping cancels.

use super::{Compute, Event, Gate, Job, Limits, Loaded, Panicked, worker::Worker};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::{Builder, Thread},
};
use tokio::sync::{mpsc, oneshot, watch};

/// A job on its way to the worker; in a box, as the queue's room for many of them is touched when it is made, on the way to the first token.
pub(super) struct Submission {
    pub job: Job,
    pub events: mpsc::Sender<Event>,
}

/// What the engine holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Sequences being generated.
    pub running: usize,
    /// Sequences that wait for a place or for blocks.
    pub waiting: usize,
    /// KV blocks in use.
    pub blocks_used: usize,
    /// KV blocks that no sequence has and that the prefix cache knows.
    pub blocks_idle: usize,
    /// KV blocks in all.
    pub blocks_total: usize,
    /// Sequences that lost their blocks to older ones, so far.
    pub preempted: u64,
    /// Tokens whose keys and values were found in the prefix cache, so far.
    pub reused_tokens: u64,
    /// Tokens guessed, so far.
    pub guessed: u64,
    /// Of these the right ones.
    pub guessed_right: u64,
}

/// Why a job was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// So many sequences wait already.
    #[error("the queue of {0} sequences is full")]
    Full(usize),
    /// The engine has ended.
    #[error("the engine has stopped")]
    Stopped,
}

/// A running engine; it ends once this is dropped and what runs has finished.
pub struct Engine {
    submissions: SyncSender<Box<Submission>>,
    stats: watch::Receiver<EngineStats>,
    thread: Thread,
    limits: Limits,
    leave: Arc<AtomicBool>,
}

impl Engine {
    /// Starts the engine's thread. It makes what it computes with and the number of KV blocks itself, because tensors
    /// never change threads, and ends at once where that is `None`. `ended` gets how it ended.
    pub fn start<C: Compute>(
        limits: Limits,
        gate: Gate,
        load: impl FnOnce() -> Option<Loaded<C>> + Send + 'static,
        ended: oneshot::Sender<Result<(), Panicked>>,
    ) -> std::io::Result<Self> {
        let (submissions, jobs) = sync_channel(limits.waiting);
        let (publish, stats) = watch::channel(EngineStats::default());
        let leave = Arc::new(AtomicBool::new(false));
        let told = leave.clone();
        let run = move || {
            if let Some(loaded) = load() {
                let result = Worker::new(loaded, limits, gate, jobs, publish, told).run();
                // Nobody may be interested.
                let _ = ended.send(result);
            }
        };
        let handle = Builder::new().name("engine".into()).spawn(run)?;
        Ok(Self { submissions, stats, thread: handle.thread().clone(), limits, leave })
    }

    /// Queues a job.
    ///
    /// # Errors
    /// Where the queue is full or the engine has ended.
    pub fn submit(&self, job: Job) -> Result<Output, Refused> {
        let (sender, events) = mpsc::channel(self.limits.events);
        let refused = |e| match e {
            TrySendError::Full(_) => Refused::Full(self.limits.waiting),
            TrySendError::Disconnected(_) => Refused::Stopped,
        };
        self.submissions.try_send(Box::new(Submission { job, events: sender })).map_err(refused)?;
        self.thread.unpark();
        Ok(Output { events, engine: self.thread.clone(), leave: self.leave.clone() })
    }

    /// Interrupts all sequences ([`ErrorKind::Interrupted`](protocol::ErrorKind::Interrupted)), keeps their full blocks where there is a place
    /// for them, and ends. What it is told by: [`Engine::watch`] has no sender then.
    pub fn leave(&self) {
        self.leave.store(true, Ordering::Release);
        self.thread.unpark();
    }

    /// The numbers, to be waited for.
    pub fn watch(&self) -> watch::Receiver<EngineStats> {
        self.stats.clone()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Hang up first, so that the woken worker sees it.
        let (disconnected, _) = sync_channel(0);
        self.submissions = disconnected;
        self.thread.unpark();
    }
}

/// The events of one sequence. Dropping it cancels the sequence.
pub struct Output {
    events: mpsc::Receiver<Event>,
    engine: Thread,
    leave: Arc<AtomicBool>,
}

impl Output {
    /// The next event; `None` after the last, or where the sequence was cancelled because this was read too slowly.
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.events.recv().await;
        // The channel was full, or has just become half empty: the sequence may pause for that.
        let (left, most) = (self.events.len(), self.events.max_capacity());
        if left + 1 >= most || most - left == most / 2 {
            self.engine.unpark();
        }
        event
    }
}

impl Output {
    /// The engine was told to leave: where no last event came, the sequence can go on elsewhere.
    pub fn is_interrupted(&self) -> bool {
        self.leave.load(Ordering::Acquire)
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        self.events.close();
        self.engine.unpark();
    }
}
