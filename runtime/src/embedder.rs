//! Embeddings: one thread that owns the encoder. Jobs come over a bounded queue, are computed one after the other in groups of
//! bounded size, and end early where nobody waits any more.
//!
//! **Invariant:** a text's vector does not depend on other texts or requests.

use crate::{
    engine::{Panicked, Refused},
    failure::Failure,
};
use models::Encoder;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread,
};
use tokio::sync::oneshot;

/// Requests that wait.
const WAITING_MAX: usize = 1024;
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
                let result = catch_unwind(AssertUnwindSafe(|| serve(&encoder, &queue)));
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

fn serve(encoder: &Encoder, queue: &Receiver<Job>) {
    for Job { sequences, answer } in queue {
        let mut vectors = Vec::with_capacity(sequences.len());
        let mut rest = sequences.as_slice();
        while !rest.is_empty() && !answer.is_closed() {
            let (group, after) = rest.split_at(group(rest));
            let group: Vec<&[u32]> = group.iter().map(Vec::as_slice).collect();
            vectors.extend(encoder.embed(&group));
            rest = after;
        }
        if rest.is_empty() {
            // Who has left in the meantime needs none.
            let _ = answer.send(vectors);
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
