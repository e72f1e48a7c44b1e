//! The engine's thread: the one owner of model, KV blocks and running set.
//!
//! Each turn: take submissions → let go of what nobody reads → admit, first come first served → compute one step → send
//! tokens → retire. It parks when nothing can run; submissions, drained readers and dropped readers unpark it.

use super::{
    Compute, Event, Gate, Limits, Panicked, Token,
    blocks::{Blocks, Lease},
    handle::{EngineStats, Submission},
    logprobs::logprobs,
    plan::{Share, plan},
    sampler::{Sampler, Scratch},
    sequence::{Sequence, Step},
};
use kernels::BLOCK_TOKENS;
use models::{Batch, Segment};
use protocol::{ApiError, ErrorKind};
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{Receiver, TryRecvError},
    thread,
    time::{Duration, Instant},
};
use tokio::sync::{
    mpsc::{Sender, error::TrySendError},
    watch,
};

/// Events of one sequence that found no room: at most what one step makes.
const OUTBOX_MAX: usize = 3;

pub(super) struct Worker<C> {
    compute: C,
    limits: Limits,
    gate: Gate,
    submissions: Receiver<Submission>,
    /// No more submissions will come.
    closed: bool,
    publish: watch::Sender<EngineStats>,
    blocks: Blocks,
    waiting: VecDeque<Submission>,
    running: Vec<Running>,
    scratch: Scratch,
}

/// A sequence of the running set. Dropping it frees its blocks.
struct Running {
    sequence: Sequence,
    sampler: Sampler,
    logprobs: Option<usize>,
    lease: Lease,
    events: Sender<Event>,
    /// What its reader had no room for; while it is not empty the sequence pauses.
    outbox: VecDeque<Event>,
    paused_since: Option<Instant>,
    admitted: Instant,
    /// All that will be sent is in the outbox.
    over: bool,
}

impl<C: Compute> Worker<C> {
    pub fn new(
        compute: C,
        blocks: u32,
        limits: Limits,
        gate: Gate,
        submissions: Receiver<Submission>,
        publish: watch::Sender<EngineStats>,
    ) -> Self {
        let blocks = Blocks::new(blocks);
        let (waiting, running, scratch) = (VecDeque::new(), Vec::new(), Scratch::default());
        Self { compute, limits, gate, submissions, closed: false, publish, blocks, waiting, running, scratch }
    }

    /// Until no more submissions can come and nothing runs.
    pub fn run(mut self) -> Result<(), Panicked> {
        loop {
            self.take_submissions();
            self.retire(Instant::now());
            self.admit(Instant::now());
            self.publish();
            if self.closed && self.running.is_empty() && self.waiting.is_empty() {
                return Ok(());
            }
            let shares = self.plan();
            if shares.is_empty() {
                self.park();
                continue;
            }
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.step(&shares))) {
                return Err(self.fail_all(message(&*payload)));
            }
        }
    }

    fn take_submissions(&mut self) {
        while !self.closed && self.waiting.len() < self.limits.waiting {
            match self.submissions.try_recv() {
                Ok(submission) => self.waiting.push_back(submission),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => self.closed = true,
            }
        }
    }

    /// Sends what had no room, and lets go of what is over or has no reader.
    fn retire(&mut self, now: Instant) {
        self.waiting.retain(|w| !w.events.is_closed());
        let (pending, bound) = (self.gate.is_pending(), self.limits.slow_reader);
        self.running.retain_mut(|r| {
            r.flush(now, pending);
            let too_slow =
                !pending && r.paused_since.is_some_and(|since| now.saturating_duration_since(since) >= bound);
            let sent = r.over && r.outbox.is_empty();
            !(r.events.is_closed() || too_slow || sent)
        });
    }

    /// Strictly in order of arrival: a large sequence at the head is not overtaken, so it does not starve.
    fn admit(&mut self, now: Instant) {
        while self.running.len() < self.limits.sequences {
            let Some(next) = self.waiting.front() else { return };
            let positions = next.job.prompt.len() + next.job.max_tokens;
            let Some(lease) = self.blocks.lease(positions.div_ceil(BLOCK_TOKENS)) else { return };
            let Some(Submission { job, events }) = self.waiting.pop_front() else { return };
            self.running.push(Running {
                sampler: Sampler::new(job.params, &job.prompt),
                sequence: Sequence::new(job.prompt, job.max_tokens, job.ends),
                logprobs: job.logprobs,
                lease,
                events,
                outbox: VecDeque::with_capacity(OUTBOX_MAX),
                paused_since: None,
                admitted: now,
                over: false,
            });
        }
    }

    fn plan(&self) -> Vec<Share> {
        let pending = |r: &Running| if r.may_run() { r.sequence.pending().len() } else { 0 };
        plan(&self.running.iter().map(pending).collect::<Vec<_>>(), self.limits.rows)
    }

    fn step(&mut self, shares: &[Share]) {
        let mut batch = Batch::default();
        let mut sampled = Vec::new();
        for share in shares {
            let running = &mut self.running[share.index];
            running.add_rows(share.rows, &mut batch);
            if running.sequence.advance(share.rows) {
                batch.wanted.push(batch.tokens.len() - 1);
                sampled.push(share.index);
            }
        }
        let (running, scratch) = (&mut self.running, &mut self.scratch);
        self.compute.forward(&batch, &mut |i, logits| running[sampled[i]].sample(logits, scratch));
        let (now, pending) = (Instant::now(), self.gate.is_pending());
        sampled.iter().for_each(|&i| running[i].flush(now, pending));
    }

    /// Sleeps until something may have changed: unparked, or a paused sequence's time is up.
    fn park(&self) {
        let bound = self.limits.slow_reader;
        let left = |r: &Running| r.paused_since.map(|since| bound.saturating_sub(since.elapsed()));
        match self.running.iter().filter_map(left).min() {
            Some(left) => thread::park_timeout(left.max(Duration::from_millis(1))),
            None => thread::park(),
        }
    }

    fn publish(&self) {
        let stats = EngineStats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            blocks_used: self.blocks.used(),
            blocks_total: self.blocks.total(),
        };
        self.publish.send_if_modified(|old| std::mem::replace(old, stats) != stats);
    }

    /// Answers every sequence, those on their way included.
    fn fail_all(&mut self, message: String) -> Panicked {
        let error =
            ApiError::new(ErrorKind::Internal, "the engine failed while computing; the model is being restarted");
        self.take_submissions();
        let waiting = self.waiting.drain(..).map(|w| w.events);
        for events in waiting.chain(self.running.drain(..).map(|r| r.events)) {
            // A full channel: its reader finds the channel's end without a last event, which is an error, too.
            let _ = events.try_send(Event::Failed(error.clone()));
        }
        self.publish();
        Panicked { message }
    }
}

impl Running {
    fn may_run(&self) -> bool {
        !self.over && self.outbox.is_empty()
    }

    /// Appends its next `rows` rows to the batch.
    fn add_rows(&self, rows: usize, batch: &mut Batch) {
        let position = self.sequence.pending().start;
        let blocks = self.lease.table()[..(position + rows).div_ceil(BLOCK_TOKENS)].to_vec();
        batch.segments.push(Segment {
            row: batch.tokens.len(),
            rows,
            position,
            prompt: self.sequence.prompt(),
            blocks,
        });
        batch.tokens.extend_from_slice(&self.sequence.tokens()[position..position + rows]);
    }

    fn sample(&mut self, logits: &[f32], scratch: &mut Scratch) {
        let position = self.sequence.tokens().len();
        if position == self.sequence.prompt() {
            self.outbox.push_back(Event::Prefilled(self.admitted.elapsed()));
        }
        let id = match self.sampler.sample(logits, position, scratch) {
            Ok(id) => id,
            Err(e) => return self.end(Event::Failed(ApiError::new(ErrorKind::Internal, e.to_string()))),
        };
        self.sampler.observe(id);
        let step = self.sequence.push(id);
        if step != Step::End {
            let logprobs = self.logprobs.map(|top| logprobs(logits, id, top));
            self.outbox.push_back(Event::Token(Token { id, logprobs, at: Instant::now() }));
        }
        match step {
            Step::Continue => {}
            Step::Last(reason) => self.end(Event::Finished(reason)),
            Step::End => self.end(Event::Finished(protocol::answer::FinishReason::Stop)),
        }
    }

    fn end(&mut self, last: Event) {
        self.outbox.push_back(last);
        self.over = true;
    }

    /// Sends what there is room for. While the gate is pending nobody reads, and that is not the reader's fault.
    fn flush(&mut self, now: Instant, gate_pending: bool) {
        debug_assert!(self.outbox.len() <= OUTBOX_MAX);
        while let Some(event) = self.outbox.pop_front() {
            if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
                self.outbox.push_front(event);
                let since = if gate_pending { now } else { self.paused_since.unwrap_or(now) };
                self.paused_since = Some(since);
                return;
            }
        }
        self.paused_since = None;
    }
}

fn message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| s.to_string());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
