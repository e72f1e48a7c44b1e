//! One sequence on its way through the engine, with or without blocks: what it has so far, and who reads it.
//!
//! **Invariant:** owns no blocks, so that it can lose them and start again from its tokens ([`Task::rewind`]); what it then
//! says goes on where it was.

use super::{
    Event, Job, Token,
    draft::{Drafter, GUESSES_MAX},
    guide::{Guided, Masks, Next},
    logprobs::{Logprobs, logprobs},
    names::{Name, Names, Scope},
    sampler::{NotFinite, Sampler, Scratch},
    sequence::{Sequence, Step},
};
use kernels::BLOCK_TOKENS;
use protocol::{ApiError, ErrorKind, answer::FinishReason};
use std::{
    collections::VecDeque,
    ops::Range,
    time::{Duration, Instant},
};
use tokio::sync::mpsc::{Sender, error::TrySendError};

/// Turns in which a sequence that waits for others' prefill sees none of it; then it computes for itself.
const PATIENCE_TURNS: u32 = 32;

/// Events of one sequence that found no room: at most what one step makes.
const OUTBOX_MAX: usize = GUESSES_MAX + 4;

pub(super) struct Task {
    pub sequence: Sequence,
    sampler: Sampler,
    logprobs: Option<usize>,
    /// Of the prompt's tokens from the second on, where they are wanted and have not been sent.
    scores: Option<Vec<Logprobs>>,
    pub drafter: Drafter,
    guided: Option<Guided>,
    /// What its keys depend on beside its tokens.
    regime: u32,
    /// `None`: kept out of the prefix cache.
    names: Option<Names>,
    events: Sender<Event>,
    /// What its reader had no room for.
    outbox: VecDeque<Event>,
    /// Since when its reader is behind: its channel was full, and half of it has not been read since. So long it pauses.
    behind_since: Option<Instant>,
    /// How many of its blocks were known when it last waited for others to fill more, and how many turns ago that grew.
    expecting: (usize, u32),
    /// When it first got blocks.
    pub admitted: Option<Instant>,
    /// It has said that its prompt is computed.
    prefilled: bool,
    /// All that will be sent is in the outbox.
    over: bool,
}

/// What came before is accepted again; whether nothing may follow it.
fn follow(guided: &mut Guided, generated: &[u32]) -> Result<bool, ApiError> {
    generated.iter().try_fold(false, |_, &id| guided.accept(id))
}

fn not_finite(error: NotFinite) -> ApiError {
    ApiError::new(ErrorKind::Internal, error.to_string())
}

impl Task {
    /// `regime`: what its keys depend on beside its tokens.
    pub fn new(job: Job, events: Sender<Event>, regime: u32) -> Self {
        let mut sampler = Sampler::new(job.params, &job.prompt);
        job.generated.iter().for_each(|&id| sampler.observe(id));
        let mut guided = job.guide.map(Guided::new);
        let followed = guided.as_mut().map_or(Ok(false), |guided| follow(guided, &job.generated));
        let speculates = job.speculate && guided.is_none();
        let mut task = Self {
            sampler,
            sequence: Sequence::new(job.prompt, job.max_tokens, job.ends).goes_on(&job.generated),
            logprobs: job.logprobs,
            scores: (job.score_prompt && job.logprobs.is_some()).then(Vec::new),
            // What may come after a guess would have to be known before the guess is.
            drafter: Drafter::new(speculates),
            guided,
            regime,
            names: job.cache.map(|scope| Names::new(scope, regime)),
            events,
            outbox: VecDeque::with_capacity(OUTBOX_MAX),
            behind_since: None,
            expecting: (0, 0),
            admitted: None,
            prefilled: false,
            over: false,
        };
        match followed {
            Ok(false) => {}
            Ok(true) => task.end(Event::Finished(FinishReason::Stop)),
            Err(e) => task.end(Event::Failed(e)),
        }
        task
    }

    /// Its keys now depend on this; true where that is new, and what has been computed is of no use.
    pub fn enter(&mut self, regime: u32) -> bool {
        let is_new = std::mem::replace(&mut self.regime, regime) != regime;
        if is_new {
            self.names.iter_mut().for_each(|names| *names = names.anew(regime));
        }
        is_new
    }

    pub fn regime(&self) -> u32 {
        self.regime
    }

    /// Logits of its prompt's rows are wanted, so that they are computed whatever others have.
    pub fn is_scoring(&self) -> bool {
        self.scores.is_some()
    }

    /// Those of the rows `rows` whose logits say how likely the prompt's next token was and have not said so before.
    pub fn scored(&self, rows: Range<usize>) -> Range<usize> {
        let Some(scores) = &self.scores else { return rows.start..rows.start };
        let end = rows.end.min(self.sequence.prompt() - 1);
        rows.start.max(scores.len()).min(end)..end
    }

    /// Logits of the next of these.
    pub fn score(&mut self, logits: &[f32]) {
        let (Some(scores), Some(top)) = (&mut self.scores, self.logprobs) else { return };
        scores.push(logprobs(logits, self.sequence.tokens()[scores.len() + 1], top));
    }

    /// Names of the blocks that may be reused: all full ones, but never the last row's, whose logits are wanted.
    pub fn reusable(&mut self) -> &[Name] {
        if self.is_scoring() {
            return &[];
        }
        let tokens = self.sequence.tokens();
        self.names.as_mut().map_or(&[], |names| names.of(&tokens[..tokens.len() - 1]))
    }

    /// Whose keys and values its own may be; `None` where it is kept out of the prefix cache.
    pub fn scope(&self) -> Option<Scope> {
        self.names.as_ref().map(Names::scope)
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
        !self.over && self.behind_since.is_none()
    }

    /// Since when its reader has kept it waiting.
    pub fn behind_since(&self) -> Option<Instant> {
        self.behind_since
    }

    /// It will soon fill its block `index`, and that with what has this name.
    pub fn will_fill(&self, index: usize, name: &Name) -> bool {
        let named = self.names.as_ref().is_some_and(|names| names.made().get(index) == Some(name));
        named && self.may_run() && self.sequence.computed() < (index + 1) * BLOCK_TOKENS
    }

    /// Whether it waits one more turn for others to fill its blocks, of which `known` are filled.
    pub fn is_patient(&mut self, known: usize) -> bool {
        let (before, turns) = self.expecting;
        self.expecting = if known > before { (known, 0) } else { (before, turns.saturating_add(1)) };
        self.expecting.1 < PATIENCE_TURNS
    }

    /// It will sample at the end of the step that begins now. `most`: sequences that may do so.
    pub fn will_sample(&mut self, masks: &mut Masks, most: usize) {
        if self.sequence.left() > 0 {
            self.guided.iter_mut().for_each(|guided| guided.ask(masks, most));
        }
    }

    /// Samples from the logits after its last token; true where it goes on with what was sampled, which is its last token
    /// then.
    pub fn sample(&mut self, logits: &[f32], masks: &mut Masks, scratch: &mut Scratch) -> bool {
        let position = self.sequence.tokens().len();
        if !std::mem::replace(&mut self.prefilled, true) {
            self.outbox.push_back(Event::Prefilled(self.admitted.map_or(Duration::ZERO, |at| at.elapsed())));
            self.outbox.extend(self.scores.take().map(Event::Scored));
        }
        if self.sequence.left() == 0 {
            self.end(Event::Finished(FinishReason::Length));
            return false;
        }
        let (id, form_is_over) = match self.choose(logits, position, masks, scratch) {
            Ok(Some(chosen)) => chosen,
            Ok(None) => {
                self.end(Event::Finished(FinishReason::Stop));
                return false;
            }
            Err(e) => {
                self.end(Event::Failed(e));
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

    /// The next token, and whether its form lets nothing follow; `None` where none may come.
    fn choose(
        &mut self,
        logits: &[f32],
        position: usize,
        masks: &mut Masks,
        scratch: &mut Scratch,
    ) -> Result<Option<(u32, bool)>, ApiError> {
        let Some(guided) = &mut self.guided else {
            let id = self.sampler.sample(logits, &Next::default(), position, scratch);
            return id.map(|id| Some((id, false))).map_err(not_finite);
        };
        let next = guided.next(masks)?;
        if next.stop {
            return Ok(None);
        }
        let id = self.sampler.sample(logits, next, position, scratch).map_err(not_finite)?;
        Ok(Some((id, guided.accept(id)?)))
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
                break;
            }
        }
        let half_read = self.events.capacity() >= self.events.max_capacity() / 2;
        self.behind_since = match self.behind_since {
            None if self.outbox.is_empty() => None,
            Some(_) if self.outbox.is_empty() && half_read => None,
            Some(since) if !gate_pending => Some(since),
            Some(_) | None => Some(now),
        };
    }

    /// The last word of an engine that cannot go on.
    pub fn fail(self, error: &ApiError) {
        // A full channel: its reader finds the channel's end without a last event, which is an error, too.
        let _ = self.events.try_send(Event::Failed(error.clone()));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::engine::Params;
    use tokio::sync::mpsc::channel;

    fn task(events: Sender<Event>) -> Task {
        let job = Job {
            prompt: vec![1],
            generated: vec![],
            max_tokens: 99,
            ends: vec![],
            params: Params::default(),
            logprobs: None,
            score_prompt: false,
            cache: Some(Scope(0)),
            speculate: false,
            guide: None,
        };
        Task::new(job, events, 0)
    }

    #[test]
    fn a_reader_is_behind_from_its_full_channel_until_it_has_read_half_and_not_from_one_event_to_the_next() {
        let (sender, mut reader) = channel(4);
        let mut task = task(sender);
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let say = |task: &mut Task, second| {
            task.outbox.push_back(Event::Prefilled(Duration::ZERO));
            task.flush(at(second), false);
        };
        (0..4).for_each(|second| say(&mut task, second));
        assert!(task.may_run(), "full, but nothing was turned away");
        say(&mut task, 4);
        for second in 5..8 {
            // One event is read, and the one that waited takes its place; later one place is free.
            assert_eq!((task.behind_since(), task.may_run()), (Some(at(4)), false), "{second}");
            reader.try_recv().unwrap();
            task.flush(at(second), false);
            if second == 5 {
                assert!(task.outbox.is_empty());
            }
        }
        assert_eq!((task.behind_since(), task.may_run()), (None, true), "half of the channel is read");
        (0..3).for_each(|_| say(&mut task, 9));
        task.flush(at(20), true);
        assert_eq!(task.behind_since(), Some(at(20)), "a closed gate is not the reader's fault");
    }

    #[test]
    fn a_row_is_scored_once_however_often_it_is_computed_and_what_is_scored_is_computed_by_itself() {
        let mut task = task(channel(9).0);
        task.sequence = Sequence::new((0..64).collect(), 2, vec![]);
        (task.scores, task.logprobs) = (Some(Vec::new()), Some(1));
        let mut logits = [0.0; 64];
        let mut compute = |task: &mut Task, rows: Range<usize>| {
            let scored = task.scored(rows.clone());
            for row in scored.clone() {
                logits.fill(0.0);
                logits[row + 1] = 9.0;
                task.score(&logits);
            }
            task.sequence.advance(rows.len());
            scored
        };
        assert_eq!(compute(&mut task, 0..40), 0..40);
        task.sequence.rewind(0);
        assert_eq!(compute(&mut task, 0..10).len(), 0);
        assert_eq!(compute(&mut task, 10..50), 40..50);
        assert!(task.is_scoring() && task.reusable().is_empty());
        assert_eq!(compute(&mut task, 50..64), 50..63, "nothing follows the last in the prompt");
        task.sample(&[0.0; 64], &mut Masks::default(), &mut Scratch::default());
        let Some(Event::Scored(scores)) = task.outbox.get(1) else { panic!("no scores") };
        assert!(scores.len() == 63 && scores.iter().all(|score| score.chosen == score.top[0].1));
        assert!(!task.is_scoring() && !task.reusable().is_empty());
    }

    #[test]
    fn patience_ends_where_nothing_comes() {
        let mut task = task(channel(1).0);
        let turns = |task: &mut Task, known| (0..1000).take_while(|_| task.is_patient(known)).count() as u32;
        assert_eq!(turns(&mut task, 0), PATIENCE_TURNS - 1);
        assert_eq!(turns(&mut task, 1), PATIENCE_TURNS, "a block came");
        assert!(!task.is_patient(1) && task.is_patient(2));
    }
}
