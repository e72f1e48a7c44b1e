//! The engine's thread: the one owner of model, KV blocks and running set.
//!
//! Each turn: take submissions → let go of what nobody reads → admit, first come first served → compute one step → send
//! tokens → retire. It parks when nothing can run; submissions, drained readers and dropped readers unpark it.
//!
//! Blocks are taken as they are filled. Where they run out, the youngest sequence loses its own and goes back to the head of
//! the queue; it will be computed again from its tokens. The oldest never does, and every sequence fits the pool alone, so
//! all get through.
//!
//! Nobody waits for somebody else's reader: a sequence that is over gives place and blocks back with its last words unsaid, and
//! one whose reader is behind loses them as soon as another could use them, and queues again when its reader has caught up.
//!
//! Full blocks are kept elsewhere, too, where there is such a place: one at a time, whenever nothing else can be computed and now and then
//! while something is, and brought back from there for a sequence that is admitted.
//!
//! A sequence whose next block another one's prefill is about to fill waits for it (a place is kept for it) instead of
//! computing the same; where no block comes for a while it is admitted and computes.

use super::{
    Compute, EngineStats, Gate, Keep, Limits, Loaded, Panicked,
    blocks::{Blocks, Filled, Table},
    guide::Masks,
    handle::Submission,
    names::{Name, Scope},
    plan::{Share, plan},
    sampler::Scratch,
    task::Task,
};
use kernels::BLOCK_TOKENS;
use models::{Batch, Segment};
use protocol::{ApiError, ErrorKind};
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// With more sequences than this the rows of a step are worth more to them than to guesses.
const GUESSING_SEQUENCES_MAX: usize = 4;

/// The part of the steps' time that keeping blocks may take while sequences run.
const KEEPING_SHARE: f64 = 0.03;
/// Most time for it that is saved up, in seconds.
const KEEPING_SAVED_MAX: f64 = 0.05;

/// Rows of prompts whose logits are wanted in one step, all sequences together: each is as wide as the vocabulary.
pub(super) const SCORED_ROWS_MAX: usize = 64;

pub(super) struct Worker<C> {
    compute: C,
    limits: Limits,
    gate: Gate,
    submissions: Receiver<Box<Submission>>,
    /// Set from outside: all ends at once, to go on elsewhere.
    leave: Arc<AtomicBool>,
    /// No more submissions will come.
    closed: bool,
    publish: watch::Sender<EngineStats>,
    blocks: Blocks,
    keep: Option<Box<dyn Keep>>,
    waiting: VecDeque<Task>,
    /// In the order of their admission.
    running: Vec<Running>,
    /// Have lost their places because their readers are behind.
    aside: Vec<Task>,
    /// Are over, but have not said so yet.
    leaving: Vec<Task>,
    scratch: Scratch,
    masks: Masks,
    counts: Counts,
    /// Time for keeping blocks that was saved up, in seconds; below zero where the last took longer.
    keeping_s: f64,
}

/// A sequence with blocks. Dropping it frees them.
struct Running {
    task: Task,
    table: Table,
}

/// What has happened so far.
#[derive(Default)]
struct Counts {
    preempted: u64,
    reused_tokens: u64,
    guessed: u64,
    guessed_right: u64,
}

/// What one sequence has in a step.
struct Rows {
    /// In the running set.
    index: usize,
    /// The first of its rows whose logits are wanted, in the order of wanted rows; none where its prompt goes on.
    wanted: Option<usize>,
    /// So many of these are the prompt's, to be scored; what comes behind them is sampled.
    scored: usize,
    guesses: Vec<u32>,
}

impl<C: Compute> Worker<C> {
    pub fn new(
        loaded: Loaded<C>,
        limits: Limits,
        gate: Gate,
        submissions: Receiver<Box<Submission>>,
        publish: watch::Sender<EngineStats>,
        leave: Arc<AtomicBool>,
    ) -> Self {
        let Loaded { compute, blocks, keep } = loaded;
        let blocks = Blocks::new(blocks);
        if keep.is_some() {
            blocks.remember_filled();
        }
        let (waiting, running, scratch) = (VecDeque::new(), Vec::new(), Scratch::default());
        let (masks, counts) = (Masks::default(), Counts::default());
        let (aside, leaving) = (Vec::new(), Vec::new());
        Self {
            compute,
            limits,
            gate,
            submissions,
            leave,
            closed: false,
            publish,
            blocks,
            keep,
            waiting,
            running,
            aside,
            leaving,
            scratch,
            masks,
            counts,
            keeping_s: 0.0,
        }
    }

    /// Until no more submissions can come and nothing runs.
    pub fn run(mut self) -> Result<(), Panicked> {
        let mut step = Duration::ZERO;
        loop {
            self.take_submissions();
            if self.leave.load(Ordering::Acquire) {
                return self.leave();
            }
            self.retire(Instant::now());
            // Its tokens are on their way.
            self.keep_some(std::mem::take(&mut step));
            self.change_regimes();
            self.admit(Instant::now());
            let shares = self.provide();
            self.publish();
            if shares.is_empty() && self.keep_one() {
                continue;
            }
            if self.closed && self.tasks().next().is_none() {
                return Ok(());
            }
            if shares.is_empty() {
                self.park();
                continue;
            }
            let begun = Instant::now();
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| self.step(&shares))) {
                return Err(self.fail_all(message(&*payload)));
            }
            step = begun.elapsed();
        }
    }

    /// Interrupts all there is, and keeps what has been computed of it.
    fn leave(mut self) -> Result<(), Panicked> {
        let error = ApiError::new(ErrorKind::Interrupted, "the process that computed this was told to end");
        let running = self.running.drain(..).map(|running| running.task);
        let others = self.waiting.drain(..).chain(self.aside.drain(..)).chain(self.leaving.drain(..));
        let tasks: Vec<Task> = running.chain(others).collect();
        tasks.into_iter().for_each(|task| task.fail(&error));
        while self.keep_one() {
            // Who still comes is not kept waiting meanwhile.
            self.take_submissions();
            self.waiting.drain(..).for_each(|task| task.fail(&error));
        }
        Ok(())
    }

    /// Keeps as many blocks as there is time for behind a step.
    fn keep_some(&mut self, step: Duration) {
        if self.keep.is_none() {
            return;
        }
        self.keeping_s = (self.keeping_s + step.as_secs_f64() * KEEPING_SHARE).min(KEEPING_SAVED_MAX);
        while self.keeping_s > 0.0 {
            let begun = Instant::now();
            if !self.keep_one() {
                return;
            }
            self.keeping_s -= begun.elapsed().as_secs_f64();
        }
    }

    /// Keeps one block that was filled and is not kept yet; false where there is none. What was computed from bytes that nobody has
    /// verified is never kept.
    fn keep_one(&mut self) -> bool {
        let Some(keep) = &mut self.keep else { return false };
        if !self.gate.is_sound() {
            return false;
        }
        let Some(Filled { block, name, scope, depth }) = self.blocks.next_filled() else { return false };
        keep.save(scope, &name, depth, &mut |out| self.compute.read_block(block, out));
        true
    }

    fn tasks(&self) -> impl Iterator<Item = &Task> {
        let running = self.running.iter().map(|running| &running.task);
        running.chain(&self.waiting).chain(&self.aside).chain(&self.leaving)
    }

    fn take_submissions(&mut self) {
        while !self.closed && self.waiting.len() < self.limits.waiting {
            match self.submissions.try_recv() {
                Ok(submission) => {
                    let Submission { job, events } = *submission;
                    let regime = self.compute.regime(job.prompt.len() + job.generated.len());
                    self.waiting.push_back(Task::new(job, events, regime));
                }
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => self.closed = true,
            }
        }
    }

    /// Sends what had no room, and lets go of what is over or has no reader.
    fn retire(&mut self, now: Instant) {
        self.leaving.extend(self.running.extract_if(.., |running| running.task.is_over()).map(|running| running.task));
        let (pending, bound) = (self.gate.is_pending(), self.limits.slow_reader);
        let mut stays = |task: &mut Task| {
            task.flush(now, pending);
            let behind = task.behind_since().map(|since| now.saturating_duration_since(since));
            let too_slow = !pending && behind.is_some_and(|behind| behind >= bound);
            !(task.is_abandoned() || too_slow || task.is_done())
        };
        self.running.retain_mut(|running| stays(&mut running.task));
        self.waiting.retain_mut(&mut stays);
        self.aside.retain_mut(&mut stays);
        self.leaving.retain_mut(&mut stays);
        self.waiting.extend(self.aside.extract_if(.., |task| task.may_run()));
        // Those that have had the most time for it are cut.
        self.leaving.drain(..self.leaving.len().saturating_sub(self.limits.waiting));
    }

    /// Who has grown into another regime starts again from its tokens.
    fn change_regimes(&mut self) {
        for task in &mut self.waiting {
            task.enter(self.compute.regime(task.sequence.tokens().len()));
        }
        for Running { task, table } in &mut self.running {
            if task.enter(self.compute.regime(task.sequence.tokens().len())) {
                *table = self.blocks.table();
                task.sequence.rewind(0);
            }
        }
    }

    /// In order of arrival: a large sequence at the head is not overtaken, so it does not starve. Only who waits for a prefix
    /// lets others by, and keeps a place meanwhile.
    fn admit(&mut self, now: Instant) {
        let mut expecting = 0;
        while expecting < self.waiting.len() {
            let is_full = self.running.len() + expecting >= self.limits.sequences;
            if !is_full && self.expects_prefix(expecting) {
                expecting += 1;
            } else if (is_full || !self.try_admit(expecting, now)) && !self.set_aside() {
                return;
            }
        }
    }

    /// Admits number `at` of those that wait; false where there are no blocks for it.
    fn try_admit(&mut self, at: usize, now: Instant) -> bool {
        let Some(mut task) = self.waiting.remove(at) else { return false };
        let Some(table) = self.table_for(&mut task) else {
            self.waiting.insert(at, task);
            return false;
        };
        task.admitted.get_or_insert(now);
        self.running.push(Running { task, table });
        true
    }

    /// The next block that number `at` of those that wait would have to fill is about to be filled by another.
    fn expects_prefix(&mut self, at: usize) -> bool {
        let task = &mut self.waiting[at];
        let names = task.reusable();
        let known = self.blocks.known(names);
        let Some(&next) = names.get(known) else { return false };
        self.running.iter().any(|running| running.task.will_fill(known, &next)) && task.is_patient(known)
    }

    /// Blocks for all of the sequence's tokens and the next, those with known content first. One block for each that runs is
    /// left, so that who is admitted is not soon sent back.
    fn table_for(&mut self, task: &mut Task) -> Option<Table> {
        let mut table = self.blocks.table();
        let kept = self.reuse(&mut table, task);
        if !table.grow(task.sequence.reach()) || self.blocks.available() < self.running.len() {
            return None;
        }
        task.sequence.rewind(kept);
        self.counts.reused_tokens += kept as u64;
        Some(table)
    }

    /// Blocks that the pool knows, then those that are kept elsewhere or were sealed with the model; the positions they cover.
    fn reuse(&mut self, table: &mut Table, task: &mut Task) -> usize {
        let Some(scope) = task.scope() else { return 0 };
        let names = task.reusable().to_vec();
        let mut depth = table.reuse(&names) / BLOCK_TOKENS;
        if let Some(keep) = &mut self.keep {
            keep.begin();
            keep.used(scope, &names[..depth]);
        }
        while let Some(name) = names.get(depth) {
            if !self.bring(table, task, (scope, name), depth) {
                break;
            }
            depth += 1;
            table.name_kept(&names[..depth]);
        }
        depth * BLOCK_TOKENS + self.begin_block(table, task, depth)
    }

    /// One more block of a sequence from elsewhere; false where it is not to be had, or there is no place for it.
    fn bring(&mut self, table: &mut Table, task: &Task, (scope, name): (Scope, &Name), depth: usize) -> bool {
        let (tokens, end) = (task.sequence.tokens(), (depth + 1) * BLOCK_TOKENS);
        if self.compute.sealed(tokens, depth) == BLOCK_TOKENS {
            if !table.grow(end) {
                return false;
            }
            self.compute.write_sealed(table.blocks()[depth], tokens, depth);
            return true;
        }
        let Some(keep) = &mut self.keep else { return false };
        if !keep.knows(scope, name) || !table.grow(end) {
            return false;
        }
        let Some(bytes) = keep.load(scope, name, depth) else { return false };
        self.compute.write_block(table.blocks()[depth], bytes);
        true
    }

    /// The beginning of a block where that was sealed with the model; its positions. The last token's row is computed in any case.
    fn begin_block(&mut self, table: &mut Table, task: &Task, depth: usize) -> usize {
        let tokens = task.sequence.tokens();
        let begun = self.compute.sealed(tokens, depth);
        let start = depth * BLOCK_TOKENS;
        if !(1..BLOCK_TOKENS).contains(&begun) || start + begun >= tokens.len() || !table.grow(start + begun) {
            return 0;
        }
        self.compute.write_sealed(table.blocks()[depth], tokens, depth);
        begun
    }

    fn plan(&self) -> Vec<Share> {
        let mut room = SCORED_ROWS_MAX;
        let pending = |r: &Running| match r.task.sequence.pending().len() {
            _ if !r.task.may_run() => 0,
            pending if r.task.is_scoring() => {
                let rows = pending.min(room);
                room -= rows;
                rows
            }
            pending => pending,
        };
        plan(&self.running.iter().map(pending).collect::<Vec<_>>(), self.limits.rows)
    }

    /// A step of which each share has its blocks, the oldest first.
    fn provide(&mut self) -> Vec<Share> {
        let (mut shares, mut provided) = (self.plan(), 0);
        while let Some(share) = shares.get(provided) {
            let running = &mut self.running[share.index];
            if running.table.grow(running.task.sequence.pending().start + share.rows) {
                provided += 1;
            } else if self.set_aside() {
                // Who runs is numbered anew.
                (shares, provided) = (self.plan(), 0);
            } else {
                self.preempt_youngest();
                shares.retain(|share| share.index < self.running.len());
            }
        }
        shares
    }

    /// Takes place and blocks of who was admitted last; it goes back to the head of the queue.
    fn preempt_youngest(&mut self) {
        if let Some(Running { mut task, table }) = self.running.pop() {
            drop(table);
            task.sequence.rewind(0);
            self.counts.preempted += 1;
            self.waiting.push_front(task);
        }
    }

    /// Takes place and blocks of the sequence whose reader has been behind the longest; false where no reader is. While the
    /// gate is pending nobody reads, and all would lose theirs.
    fn set_aside(&mut self) -> bool {
        if self.gate.is_pending() || self.aside.len() >= self.limits.waiting {
            return false;
        }
        let behind = |(index, running): (usize, &Running)| Some((running.task.behind_since()?, index));
        let Some((_, index)) = self.running.iter().enumerate().filter_map(behind).min() else { return false };
        let mut task = self.running.remove(index).task;
        task.sequence.rewind(0);
        self.counts.preempted += 1;
        self.aside.push(task);
        true
    }

    fn step(&mut self, shares: &[Share]) {
        let mut batch = Batch::default();
        let guessing = shares.len() <= GUESSING_SEQUENCES_MAX;
        let rows: Vec<Rows> = shares.iter().map(|share| self.add_rows(share, guessing, &mut batch)).collect();
        let (running, scratch, masks) = (&mut self.running, &mut self.scratch, &mut self.masks);
        let mut sampling = Sampling::new(&rows);
        self.compute.forward(&batch, &mut |i, logits| sampling.row(i, logits, running, masks, scratch));
        let (now, pending) = (Instant::now(), self.gate.is_pending());
        for (rows, right) in rows.iter().zip(sampling.right) {
            let running = &mut self.running[rows.index];
            if !rows.guesses.is_empty() {
                running.task.drafter.judge(rows.guesses.len(), right);
                self.counts.guessed += rows.guesses.len() as u64;
                self.counts.guessed_right += right as u64;
            }
            running.name_blocks();
            running.task.flush(now, pending);
        }
    }

    /// Appends a sequence's next rows to the batch, guesses behind them.
    fn add_rows(&mut self, share: &Share, guessing: bool, batch: &mut Batch) -> Rows {
        let running = &mut self.running[share.index];
        let sequence = &running.task.sequence;
        let (position, length) = (sequence.pending().start, sequence.tokens().len());
        let row = batch.tokens.len();
        batch.tokens.extend_from_slice(&sequence.tokens()[position..position + share.rows]);
        let scored = running.task.scored(position..position + share.rows);
        let mut rows = Rows { index: share.index, wanted: None, scored: scored.len(), guesses: Vec::new() };
        if !scored.is_empty() {
            rows.wanted = Some(batch.wanted.len());
            batch.wanted.extend(scored.map(|at| row + at - position));
        }
        let sequence = &mut running.task.sequence;
        if sequence.advance(share.rows) {
            if guessing {
                // The last token that may come needs no row.
                let most = sequence.left().saturating_sub(1);
                rows.guesses = running.task.drafter.guess(sequence.tokens(), most);
                let reach = length + rows.guesses.len();
                if self.compute.regime(reach) != running.task.regime() || !running.table.grow(reach) {
                    rows.guesses.clear();
                }
            }
            running.task.will_sample(&mut self.masks, self.limits.sequences);
            rows.wanted.get_or_insert(batch.wanted.len());
            batch.tokens.extend_from_slice(&rows.guesses);
            batch.wanted.extend(row + share.rows - 1..batch.tokens.len());
        }
        let count = batch.tokens.len() - row;
        let blocks = running.table.blocks().to_vec();
        batch.segments.push(Segment { row, rows: count, position, length, blocks });
        rows
    }

    /// Sleeps until something may have changed: unparked, or the time of a reader that is behind is up.
    fn park(&self) {
        let bound = self.limits.slow_reader;
        let left = |task: &Task| task.behind_since().map(|since| bound.saturating_sub(since.elapsed()));
        match self.tasks().filter_map(left).min() {
            Some(left) => thread::park_timeout(left.max(Duration::from_millis(1))),
            None => thread::park(),
        }
    }

    fn publish(&self) {
        let stats = EngineStats {
            running: self.running.len(),
            waiting: self.waiting.len() + self.aside.len(),
            blocks_used: self.blocks.used(),
            blocks_idle: self.blocks.idle(),
            blocks_total: self.blocks.total(),
            preempted: self.counts.preempted,
            reused_tokens: self.counts.reused_tokens,
            guessed: self.counts.guessed,
            guessed_right: self.counts.guessed_right,
        };
        self.publish.send_if_modified(|old| std::mem::replace(old, stats) != stats);
    }

    /// Answers every sequence, those on their way included.
    fn fail_all(&mut self, message: String) -> Panicked {
        let error = ApiError::new(ErrorKind::Broken, "the engine failed while computing; the model is being restarted");
        self.take_submissions();
        let running = self.running.drain(..).map(|running| running.task);
        let others = self.aside.drain(..).chain(self.leaving.drain(..));
        self.waiting.drain(..).chain(running).chain(others).for_each(|task| task.fail(&error));
        self.publish();
        Panicked { message }
    }
}

impl Running {
    /// Makes the blocks that are now full known to the prefix cache.
    fn name_blocks(&mut self) {
        let Some(scope) = self.task.scope() else { return };
        self.table.name(self.task.computed_names(), scope);
    }
}

/// The rows of a step as their logits come.
struct Sampling<'a> {
    rows: &'a [Rows],
    /// Whose logits come now.
    at: usize,
    /// Guesses that came true, for each.
    right: Vec<usize>,
    /// What comes for the current one is of use.
    goes_on: bool,
}

impl<'a> Sampling<'a> {
    fn new(rows: &'a [Rows]) -> Self {
        Self { rows, at: 0, right: vec![0; rows.len()], goes_on: true }
    }

    /// Wanted row `i` in order. A guess is right where it is what was sampled; behind the first wrong one nothing counts.
    fn row(&mut self, i: usize, logits: &[f32], running: &mut [Running], masks: &mut Masks, scratch: &mut Scratch) {
        let begins = |rows: &Rows| rows.wanted == Some(i);
        if let Some(at) = self.rows.iter().position(begins) {
            (self.at, self.goes_on) = (at, true);
        }
        if !self.goes_on {
            return;
        }
        let rows = &self.rows[self.at];
        let task = &mut running[rows.index].task;
        let nth = i - rows.wanted.expect("only sequences with wanted rows get here");
        let Some(checked) = nth.checked_sub(rows.scored) else { return task.score(logits) };
        self.goes_on = task.sample(logits, masks, scratch)
            && rows.guesses.get(checked).is_some_and(|guess| task.sequence.tokens().last() == Some(guess));
        if self.goes_on {
            // Its row has been computed as a guess.
            task.sequence.advance(1);
            self.right[self.at] += 1;
        }
    }
}

fn message(payload: &(dyn std::any::Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|s| s.to_string());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
