//! Verification: every chunk against its sum, beside the restore, so that a token waits for it and loading does not.
//!
//! Threads take chunks in file order, which is the order of first use: what the first layer needs is sound first, and
//! the disk reads front to back. Others only read in, far ahead (`read_in`). Waiting is by condition variable.
//!
//! Beside a computation that reads all weights once, whoever is about to read some sums them ([`Verification::look_at`]): they come from memory once and
//! not twice. The threads leave chunks to it until it has been through, or does nothing for a while.
//!
//! Of an encrypted snapshot to verify a chunk is to decrypt it to its place. Whoever is about to read one waits until it is there, and meanwhile decrypts
//! one of those that follow, which will be wanted next.
//!
//! **Invariant:** every wait ends, because every worker either reaches the last chunk or records why not, and a chunk that was taken is summed.

use crate::{Error, HEADER_BYTES, Snapshot, header, hex, read_in};
use sha2::{Digest, Sha256};
use std::{
    io,
    ops::Range,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// How far [`verify_all`] asks the disk ahead of the sums, in chunks.
const READ_AHEAD_CHUNKS: usize = 16;

/// How many chunks behind one that it waits for a thread looks for one that nobody decrypts.
const AHEAD_CHUNKS: usize = 16;

/// Most threads one verification uses: memory bandwidth is reached long before.
const THREADS_MAX: usize = 64;

/// Who sums what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The verification's own threads, all.
    Apart,
    /// The same, but what is in memory was verified before.
    Again,
    /// Who is about to read, and the threads what is left; these wait so long where nothing is looked at.
    Beside {
        /// So long.
        patience: Duration,
    },
}

/// A verification under way; cheap to clone, and waited for from any thread. It goes on when all handles are dropped.
#[derive(Clone)]
pub struct Verification(Arc<Work>);

struct Work {
    snapshot: Arc<Snapshot>,
    /// What is in memory was verified before, and nobody has looked yet what that is.
    trusting: AtomicBool,
    /// Workers, where something is to be read and summed.
    threads: usize,
    /// The next chunk that no worker has come to.
    next: AtomicUsize,
    /// Chunks that somebody sums or has summed.
    taken: Box<[AtomicBool]>,
    /// The workers wait: chunks are summed by who reads them. Changed and looked at by read-modify-writes alone, which have one order.
    beside: AtomicBool,
    /// How long they wait where nothing is looked at.
    patience: Duration,
    /// How often something was looked at.
    looks: AtomicU64,
    failure: Mutex<Option<Arc<Error>>>,
    /// A chunk was found sound, or a failure recorded; while the workers wait, failures alone.
    changed: Condvar,
    /// The workers need not wait any more.
    go_on: Condvar,
}

impl Verification {
    pub(crate) fn start(snapshot: &Arc<Snapshot>, threads: usize, mode: Mode) -> Self {
        let threads = threads.clamp(1, THREADS_MAX).min(snapshot.chunks());
        let patience = if let Mode::Beside { patience } = mode { Some(patience) } else { None };
        let work = Arc::new(Work {
            snapshot: snapshot.clone(),
            trusting: AtomicBool::new(mode == Mode::Again),
            threads,
            next: AtomicUsize::new(0),
            taken: (0..snapshot.chunks()).map(|_| AtomicBool::new(false)).collect(),
            beside: AtomicBool::new(patience.is_some()),
            patience: patience.unwrap_or_default(),
            looks: AtomicU64::new(0),
            failure: Mutex::new(None),
            changed: Condvar::new(),
            go_on: Condvar::new(),
        });
        if snapshot.are_sound() {
            return Self(work);
        }
        // Where all was verified before there is next to nothing to do, most likely, and the processors are wanted elsewhere.
        let at_first = if mode == Mode::Again { 1 } else { threads };
        if mode != Mode::Again {
            work.start_readers(0);
        }
        // The first finishes the work alone where there are no others; without any it has failed.
        match work.start_workers(0..1) {
            Ok(()) => drop(work.start_workers(1..at_first)),
            Err(error) => work.fail(Error::io("starting a verifying thread")(error)),
        }
        Self(work)
    }

    /// Sums the chunks that hold `bytes`, addresses, if they are of this snapshot's mapping, where nobody does or has done. What is found is said to who waits. What
    /// is decrypted is there afterwards, or the verification has failed.
    pub fn look_at(&self, bytes: Range<*const u8>) {
        let work = &self.0;
        let Some(range) = work.snapshot.mapping().range_of(bytes) else { return };
        work.looks.fetch_add(1, Ordering::Relaxed);
        for chunk in work.snapshot.chunks_of(&range) {
            work.look(chunk);
            work.wait_for(chunk);
        }
    }

    /// Nothing more will be looked at, or only what is left to be summed by the verification's own threads.
    pub fn go_on(&self) {
        self.0.leave_nothing();
        drop(self.0.lock());
        self.0.go_on.notify_all();
    }

    /// Blocks until every chunk is verified, or one is found corrupt.
    ///
    /// # Errors
    /// What was found, whichever chunk it is in.
    pub fn wait(&self) -> Result<(), Arc<Error>> {
        self.wait_chunks(0..self.0.snapshot.chunks())
    }

    /// Blocks until the chunks that hold a range of the file are verified, or any chunk is found corrupt; beside a computation no sooner than the
    /// workers go on.
    ///
    /// # Errors
    /// What was found, whichever chunk it is in.
    pub fn wait_range(&self, file_range: Range<u64>) -> Result<(), Arc<Error>> {
        self.wait_chunks(self.0.snapshot.chunks_of(&file_range))
    }

    fn wait_chunks(&self, mut chunks: Range<usize>) -> Result<(), Arc<Error>> {
        let mut failure = self.0.lock();
        loop {
            if let Some(error) = failure.as_ref() {
                return Err(error.clone());
            }
            // Sound chunks stay sound, so none is looked at twice.
            while !chunks.is_empty() && self.0.snapshot.is_sound(chunks.start) {
                chunks.start += 1;
            }
            if chunks.is_empty() {
                return Ok(());
            }
            failure = self.0.changed.wait(failure).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Work {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Error>>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of these numbers, or as many as can be started.
    fn start_workers(self: &Arc<Self>, mut numbers: Range<usize>) -> io::Result<()> {
        numbers.try_for_each(|number| {
            let worker = Worker(self.clone());
            thread::Builder::new().name(format!("verify-{number}")).spawn(move || worker.run()).map(drop)
        })
    }

    /// Starts to read in from `offset` on, unless that began when the file was opened, as of one that is decrypted.
    fn start_readers(&self, offset: u64) {
        if !self.snapshot.is_decrypted() {
            read_in::start(self.snapshot.clone(), offset..self.snapshot.header().file_bytes);
        }
    }

    /// Sums a chunk that nobody has taken, and says what was found.
    fn look(&self, chunk: usize) {
        match self.sum(chunk) {
            // While the workers wait, one of them tells of all of it in the end.
            Ok(true) if !self.is_beside() => self.tell(),
            Ok(_) => {}
            Err(error) => self.fail(error),
        }
    }

    /// Takes what is in memory for sound, before anything else is brought there. Where some is not, others begin with it, too.
    fn trust(self: &Arc<Self>) {
        let missing = (0..self.snapshot.chunks()).filter(|chunk| !self.snapshot.trust_chunk(*chunk));
        // All are looked at.
        let first = missing.fold(None, |first: Option<usize>, chunk| first.or(Some(chunk)));
        if let Some(chunk) = first {
            self.start_readers(self.snapshot.header().chunk_range(chunk as u64).start);
            // Without them this one does it all.
            let _ = self.start_workers(1..self.threads);
        }
    }

    /// Takes a chunk and sums it; whether it was found sound here.
    fn sum(&self, chunk: usize) -> Result<bool, Error> {
        if self.snapshot.is_sound(chunk) || self.taken[chunk].swap(true, Ordering::AcqRel) {
            return Ok(false);
        }
        let summing = Summing(self);
        let found = self.snapshot.check_chunk(chunk).map(|()| true);
        drop(summing);
        found
    }

    /// Returns when a chunk that another has taken is decrypted, and does one that will be wanted next meanwhile.
    fn wait_for(&self, chunk: usize) {
        if !self.snapshot.is_decrypted() || self.snapshot.is_sound(chunk) {
            return;
        }
        let mut behind = chunk + 1..(chunk + 1 + AHEAD_CHUNKS).min(self.snapshot.chunks());
        let next = behind.find(|next| !self.taken[*next].load(Ordering::Relaxed));
        next.into_iter().for_each(|next| self.look(next));
        self.snapshot.check_chunk(chunk).unwrap_or_else(|error| self.fail(error));
    }

    /// What whoever was told so before has found sound is seen by who is told otherwise.
    fn is_beside(&self) -> bool {
        self.beside.fetch_or(false, Ordering::AcqRel)
    }

    fn leave_nothing(&self) {
        self.beside.swap(false, Ordering::AcqRel);
    }

    /// Waits as long as chunks are to be summed by who reads them.
    fn wait_beside(&self) {
        let mut failure = self.lock();
        while failure.is_none() && self.is_beside() {
            let looks = self.looks.load(Ordering::Relaxed);
            let waited = self.go_on.wait_timeout(failure, self.patience).unwrap_or_else(PoisonError::into_inner);
            failure = waited.0;
            if waited.1.timed_out() && self.looks.load(Ordering::Relaxed) == looks {
                self.leave_nothing();
                self.go_on.notify_all();
            }
        }
    }

    /// Wakes who waits for a chunk.
    fn tell(&self) {
        // Taken and released, so that a waiter that has just looked is asleep before it is woken.
        drop(self.lock());
        self.changed.notify_all();
    }

    /// Records the first failure and leaves no chunk to take.
    fn fail(&self, error: Error) {
        self.next.store(self.snapshot.chunks(), Ordering::Relaxed);
        self.lock().get_or_insert_with(|| Arc::new(error));
        self.changed.notify_all();
        self.go_on.notify_all();
    }
}

/// A chunk that was taken and is neither sound nor known to be corrupt yet.
struct Summing<'a>(&'a Work);

impl Drop for Summing<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(Error::io("verifying")(io::Error::other("summing a chunk panicked")));
        }
    }
}

struct Worker(Arc<Work>);

impl Worker {
    fn run(self) {
        let work = &self.0;
        work.wait_beside();
        if work.trusting.swap(false, Ordering::Relaxed) {
            work.trust();
        }
        loop {
            let chunk = work.next.fetch_add(1, Ordering::Relaxed);
            if chunk >= work.snapshot.chunks() {
                // Of those, too, that others have summed meanwhile, or that were taken for sound.
                return work.tell();
            }
            match work.sum(chunk) {
                Ok(true) => work.tell(),
                Ok(false) => {}
                Err(error) => return work.fail(error),
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(Error::io("verifying")(io::Error::other("a verifying thread panicked")));
        }
    }
}

/// Every chunk and the digest, in file order on this thread. Chunks that were found sound before are summed again: the
/// answer is about the file as it is now.
pub(crate) fn verify_all(snapshot: &Snapshot, progress: &mut dyn FnMut(u64, u64)) -> Result<(), Error> {
    let (first_page, map) = (snapshot.header(), snapshot.mapping());
    let mut digest = Sha256::new();
    for chunk in 0..snapshot.chunks() {
        if chunk + READ_AHEAD_CHUNKS < snapshot.chunks() {
            map.read_ahead(&first_page.chunk_range((chunk + READ_AHEAD_CHUNKS) as u64));
        }
        let bytes = first_page.chunk_range(chunk as u64);
        if snapshot.is_decrypted() {
            snapshot.check_chunk(chunk)?;
        } else {
            map.populate(&bytes)?;
        }
        snapshot.compare_chunk(chunk, map.slice(&bytes))?;
        digest.update(map.slice(&bytes));
        progress(bytes.end, first_page.file_bytes);
    }
    digest.update(map.slice(&first_page.checksums.range().unwrap_or_default()));
    digest.update(header::unsigned(map.slice(&(0..HEADER_BYTES as u64))));
    let found: [u8; 32] = digest.finalize().into();
    progress(first_page.file_bytes, first_page.file_bytes);
    if found != first_page.digest {
        return Err(Error::Digest { expected: first_page.digest_hex(), found: hex(&found) });
    }
    Ok(())
}
