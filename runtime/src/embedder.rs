//! Embeddings: one thread that owns the encoder. Jobs come over a bounded queue, are computed in turns, a group of
//! bounded size each, so that a large one does not hold up the small, and end early where nobody waits any more.
//!
//! **Invariant:** a text's vector does not depend on other texts or requests.

use crate::{
    engine::{Panicked, Refused},
    failure::Failure,
};
use models::Encoder;
use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread,
};
use tokio::sync::oneshot;

/// Requests that wait.
const WAITING_MAX: usize = 1024;
/// Requests that are computed in turns; the others wait in order.
const OPEN_MAX: usize = 32;
/// Tokens that are computed together, if several texts are.
const GROUP_TOKENS: usize = 2048;

/// The encoder's thread, from outside; it ends once this is dropped.
pub struct Embedder {
    jobs: SyncSender<Job>,
    /// Elements of a vector.
    pub width: usize,
}

/// Texts as token ids, and who waits for their vectors.
struct Job {
    sequences: Vec<Vec<u32>>,
    answer: oneshot::Sender<Vec<Vec<f32>>>,
}

/// What the rest needs to know of the encoder on its thread.
pub struct Facts {
    /// Tokens of one text at most.
    pub context: usize,
    /// Token ids are below this.
    pub vocab: usize,
}

impl Embedder {
    /// Starts the thread, which makes the encoder itself, because tensors never change threads. `ended` gets how it ended.
    pub fn start(
        load: impl FnOnce() -> Result<Encoder, Failure> + Send + 'static,
        ended: oneshot::Sender<Result<(), Panicked>>,
    ) -> Result<(Self, Facts), Failure> {
        let (jobs, queue) = sync_channel(WAITING_MAX);
        let (tell, told) = sync_channel(1);
        let run = move || {
            let encoder = match load() {
                Ok(encoder) => encoder,
                // Whoever started this waits for it.
                Err(failure) => return drop(tell.send(Err(failure))),
            };
            let config = encoder.config();
            let facts = Facts { context: config.context_length, vocab: config.vocab_size };
            if tell.send(Ok((facts, config.hidden_size))).is_ok() {
                let result = catch_unwind(AssertUnwindSafe(|| serve(|group| encoder.embed(group), &queue)));
                // Nobody may be interested.
                let _ = ended.send(result.map_err(|_| Panicked { message: "computing an embedding".into() }));
            }
        };
        let started = thread::Builder::new().name("encoder".into()).spawn(run);
        started.map_err(|e| Failure::internal(format!("starting the encoder's thread: {e}")))?;
        let (facts, width) = told.recv().map_err(|_| Failure::internal("restoring the encoder panicked"))??;
        Ok((Self { jobs, width }, facts))
    }

    /// Queues texts; their vectors come in order. Dropping the receiver cancels.
    ///
    /// # Errors
    /// Where the queue is full or the thread has ended.
    pub fn submit(&self, sequences: Vec<Vec<u32>>) -> Result<oneshot::Receiver<Vec<Vec<f32>>>, Refused> {
        let (answer, vectors) = oneshot::channel();
        let refused = |e| match e {
            TrySendError::Full(_) => Refused::Full(WAITING_MAX),
            TrySendError::Disconnected(_) => Refused::Stopped,
        };
        self.jobs.try_send(Job { sequences, answer }).map_err(refused)?;
        Ok(vectors)
    }
}

/// One group of each open job in turn, until no more can come.
fn serve(compute: impl Fn(&[&[u32]]) -> Vec<Vec<f32>>, queue: &Receiver<Job>) {
    let mut open = VecDeque::new();
    loop {
        while open.len() < OPEN_MAX {
            let next = if open.is_empty() { queue.recv().ok() } else { queue.try_recv().ok() };
            let Some(job) = next else { break };
            open.push_back(Open { job, vectors: Vec::new() });
        }
        let Some(mut turn) = open.pop_front() else { return };
        if turn.advance(&compute) {
            open.push_back(turn);
        } else {
            turn.end();
        }
    }
}

/// A job that is being computed.
struct Open {
    job: Job,
    /// Of its first sequences.
    vectors: Vec<Vec<f32>>,
}

impl Open {
    /// Computes its next group; whether there are more.
    fn advance(&mut self, compute: impl Fn(&[&[u32]]) -> Vec<Vec<f32>>) -> bool {
        let rest = &self.job.sequences[self.vectors.len()..];
        if rest.is_empty() || self.job.answer.is_closed() {
            return false;
        }
        let group: Vec<&[u32]> = rest[..group(rest)].iter().map(Vec::as_slice).collect();
        self.vectors.extend(compute(&group));
        self.vectors.len() < self.job.sequences.len()
    }

    fn end(self) {
        if self.vectors.len() == self.job.sequences.len() {
            // Who has left in the meantime needs none.
            let _ = self.job.answer.send(self.vectors);
        }
    }
}

/// How many of the first sequences are computed together; at least one.
fn group(sequences: &[Vec<u32>]) -> usize {
    let mut tokens = 0;
    let fits = |sequence: &&Vec<u32>| {
        tokens += sequence.len();
        tokens <= GROUP_TOKENS
    };
    sequences.iter().take_while(fits).count().max(1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// What is computed, group by group, for jobs of texts of these lengths.
    fn groups(jobs: &[Vec<usize>]) -> Vec<Vec<usize>> {
        let (sender, queue) = sync_channel(WAITING_MAX);
        let submit = |lengths: &Vec<usize>| {
            let (answer, vectors) = oneshot::channel();
            sender.send(Job { sequences: lengths.iter().map(|&n| vec![0; n]).collect(), answer }).unwrap();
            vectors
        };
        let waiting: Vec<_> = jobs.iter().map(submit).collect();
        drop(sender);
        let seen = RefCell::new(Vec::new());
        let compute = |group: &[&[u32]]| {
            seen.borrow_mut().push(group.iter().map(|text| text.len()).collect());
            group.iter().map(|text| vec![text.len() as f32]).collect()
        };
        serve(compute, &queue);
        for (mut vectors, lengths) in waiting.into_iter().zip(jobs) {
            let expected: Vec<Vec<f32>> = lengths.iter().map(|&n| vec![n as f32]).collect();
            assert_eq!(vectors.try_recv().unwrap(), expected);
        }
        seen.into_inner()
    }

    #[test]
    fn a_large_job_does_not_hold_up_a_small_one() {
        let large = vec![GROUP_TOKENS / 2; 6];
        let (half, pair) = (GROUP_TOKENS / 2, vec![GROUP_TOKENS / 2; 2]);
        assert_eq!(
            groups(&[large, vec![3], vec![half, 5000, 1]]),
            [pair.clone(), vec![3], vec![half], pair.clone(), vec![5000], pair, vec![1]]
        );
        let many = vec![vec![1]; 3 * OPEN_MAX];
        assert_eq!(groups(&many).len(), many.len());
    }
}
