//! One sequence on its way through the engine, with or without blocks: what it has so far, and who reads it.
//!
//! **Invariant:** owns no blocks, so that it can lose them and start again from its tokens ([`Task::rewind`]); what it then
//! says goes on where it was.

use super::{
    Event, Job, Token,
    draft::{Drafter, GUESSES_MAX},
    guide::{Guided, Masks},
    logprobs::logprobs,
    names::{Name, Names},
    sampler::{Sampler, Scratch},
    sequence::{Sequence, Step},
};
use protocol::{ApiError, ErrorKind, answer::FinishReason};
use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};
use tokio::sync::mpsc::{Sender, error::TrySendError};

/// Events of one sequence that found no room: at most what one step makes.
const OUTBOX_MAX: usize = GUESSES_MAX + 3;

pub(super) struct Task {
    pub sequence: Sequence,
    sampler: Sampler,
    logprobs: Option<usize>,
    pub drafter: Drafter,
    guided: Option<Guided>,
    /// `None`: kept out of the prefix cache.
    names: Option<Names>,
    events: Sender<Event>,
    /// What its reader had no room for; while it is not empty the sequence pauses.
    outbox: VecDeque<Event>,
    paused_since: Option<Instant>,
    /// When it first got blocks.
    pub admitted: Option<Instant>,
    /// All that will be sent is in the outbox.
    over: bool,
}

impl Task {
    /// `regime`: what its keys depend on beside its tokens.
    pub fn new(job: Job, events: Sender<Event>, regime: u32) -> Self {
        Self {
            sampler: Sampler::new(job.params, &job.prompt),
            sequence: Sequence::new(job.prompt, job.max_tokens, job.ends),
            logprobs: job.logprobs,
            // What may come after a guess would have to be known before the guess is.
            drafter: Drafter::new(job.speculate && job.guide.is_none()),
            guided: job.guide.map(Guided::new),
            names: job.cache.map(|scope| Names::new(scope, regime)),
            events,
            outbox: VecDeque::with_capacity(OUTBOX_MAX),
            paused_since: None,
            admitted: None,
            over: false,
        }
    }

    /// Names of the blocks that may be reused: all full ones, but never the last row's, whose logits are wanted.
    pub fn reusable(&mut self) -> &[Name] {
        let tokens = self.sequence.tokens();
        self.names.as_mut().map_or(&[], |names| names.of(&tokens[..tokens.len() - 1]))
    }

    /// Names of the blocks whose rows are all computed.
    pub fn computed_names(&mut self) -> &[Name] {
        let computed = &self.sequence.tokens()[..self.sequence.computed()];
        self.names.as_mut().map_or(&[], |names| names.of(computed))
    }

    /// Nobody reads it any more.
    pub fn is_abandoned(&self) -> bool {
        self.events.is_closed()
    }

    /// All is sent that ever will be.
    pub fn is_done(&self) -> bool {
        self.over && self.outbox.is_empty()
    }

    /// Nothing more is to be computed.
    pub fn is_over(&self) -> bool {
        self.over
    }

    pub fn may_run(&self) -> bool {
        !self.over && self.outbox.is_empty()
    }

    /// How long its reader has kept it waiting.
    pub fn paused_since(&self) -> Option<Instant> {
        self.paused_since
    }

    /// It will sample at the end of the step that begins now. `most`: sequences that may do so.
    pub fn will_sample(&mut self, masks: &mut Masks, most: usize) {
        self.guided.iter_mut().for_each(|guided| guided.ask(masks, most));
    }

    /// Samples from the logits after its last token; true where it goes on with what was sampled, which is its last token
    /// then.
    pub fn sample(&mut self, logits: &[f32], masks: &mut Masks, scratch: &mut Scratch) -> bool {
        let position = self.sequence.tokens().len();
        if position == self.sequence.prompt() {
            self.outbox.push_back(Event::Prefilled(self.admitted.map_or(Duration::ZERO, |at| at.elapsed())));
        }
        let (id, form_is_over) = match self.choose(logits, position, masks, scratch) {
            Ok(chosen) => chosen,
            Err(e) => {
                self.end(Event::Failed(ApiError::new(ErrorKind::Internal, e)));
                return false;
            }
        };
        self.sampler.observe(id);
        let step = self.sequence.push(id);
        if step != Step::End {
            let logprobs = self.logprobs.map(|top| logprobs(logits, id, top));
            self.outbox.push_back(Event::Token(Token { id, logprobs, at: Instant::now() }));
        }
        match step {
            Step::Continue if form_is_over => self.end(Event::Finished(FinishReason::Stop)),
            Step::Continue => return true,
            Step::Last(_) if form_is_over => self.end(Event::Finished(FinishReason::Stop)),
            Step::Last(reason) => self.end(Event::Finished(reason)),
            Step::End => self.end(Event::Finished(FinishReason::Stop)),
        }
        false
    }

    /// The next token, and whether its form lets nothing follow.
    fn choose(
        &mut self,
        logits: &[f32],
        position: usize,
        masks: &mut Masks,
        scratch: &mut Scratch,
    ) -> Result<(u32, bool), String> {
        let Some(guided) = &mut self.guided else {
            let id = self.sampler.sample(logits, None, position, scratch);
            return id.map(|id| (id, false)).map_err(|e| e.to_string());
        };
        let mask = guided.mask(masks).map_err(|e| format!("the form of the answer cannot be followed: {e}"))?;
        let id = self.sampler.sample(logits, Some(mask), position, scratch).map_err(|e| e.to_string())?;
        let over = guided.accept(id).map_err(|e| format!("the form of the answer cannot be followed: {e}"))?;
        Ok((id, over))
    }

    fn end(&mut self, last: Event) {
        self.outbox.push_back(last);
        self.over = true;
    }

    /// Sends what there is room for. While the gate is pending nobody reads, and that is not the reader's fault.
    pub fn flush(&mut self, now: Instant, gate_pending: bool) {
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

    /// The last word of an engine that cannot go on.
    pub fn fail(self, error: &ApiError) {
        // A full channel: its reader finds the channel's end without a last event, which is an error, too.
        let _ = self.events.try_send(Event::Failed(error.clone()));
    }
}
