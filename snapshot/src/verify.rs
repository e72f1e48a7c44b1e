//! Verification: every chunk against its sum, beside the restore, so that a token waits for it and loading does not.
//!
//! Threads take chunks in file order, which is the order of first use: what the first layer needs is sound first, and
//! the disk reads front to back. Waiting is by condition variable. **Invariant:** every wait ends, because every worker
//! either reaches the last chunk or records why not.

use crate::{Error, HEADER_BYTES, Snapshot, header, hex};
use sha2::{Digest, Sha256};
use std::{
    ops::Range,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// How far the disk is kept busy ahead of the sums, in chunks: deep enough for an NVMe queue at 1 MiB a request, and
/// small beside any page cache.
const READ_AHEAD_CHUNKS: usize = 16;

/// Most threads one verification uses: memory bandwidth is reached long before.
const THREADS_MAX: usize = 64;

/// A verification under way; cheap to clone, and waited for from any thread. It goes on when all handles are dropped.
#[derive(Clone)]
pub struct Verification(Arc<Work>);

struct Work {
    snapshot: Arc<Snapshot>,
    /// Next chunk nobody has taken.
    next: AtomicUsize,
    failure: Mutex<Option<Arc<Error>>>,
    /// A chunk was found sound, or a failure recorded.
    changed: Condvar,
}

impl Verification {
    pub(crate) fn start(snapshot: &Arc<Snapshot>, threads: usize) -> Self {
        let work = Arc::new(Work {
            snapshot: snapshot.clone(),
            next: AtomicUsize::new(0),
            failure: Mutex::new(None),
            changed: Condvar::new(),
        });
        (0..READ_AHEAD_CHUNKS).for_each(|chunk| work.read_ahead(chunk));
        let threads = threads.clamp(1, THREADS_MAX).min(snapshot.chunks());
        for i in 0..threads {
            let worker = Worker(work.clone());
            let started = thread::Builder::new().name(format!("verify-{i}")).spawn(move || worker.run());
            if let Err(error) = started {
                // The threads that did start finish the work; without any it has failed.
                if i == 0 {
                    work.fail(Error::io("starting a verifying thread")(error));
                }
                break;
            }
        }
        Self(work)
    }

    /// Blocks until every chunk is verified, or one is found corrupt.
    ///
    /// # Errors
    /// What was found, whichever chunk it is in.
    pub fn wait(&self) -> Result<(), Arc<Error>> {
        self.wait_chunks(0..self.0.snapshot.chunks())
    }

    /// Blocks until the chunks that hold a range of the file are verified, or any chunk is found corrupt.
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

    fn read_ahead(&self, chunk: usize) {
        if chunk < self.snapshot.chunks() {
            self.snapshot.mapping().read_ahead(&self.snapshot.header().chunk_range(chunk as u64));
        }
    }

    /// Records the first failure and leaves no chunk to take.
    fn fail(&self, error: Error) {
        self.next.store(self.snapshot.chunks(), Ordering::Relaxed);
        self.lock().get_or_insert_with(|| Arc::new(error));
        self.changed.notify_all();
    }
}

struct Worker(Arc<Work>);

impl Worker {
    fn run(self) {
        let work = &self.0;
        loop {
            let chunk = work.next.fetch_add(1, Ordering::Relaxed);
            if chunk >= work.snapshot.chunks() {
                return;
            }
            work.read_ahead(chunk.saturating_add(READ_AHEAD_CHUNKS));
            if let Err(error) = work.snapshot.check_chunk(chunk) {
                return work.fail(error);
            }
            // Taken and released, so that a waiter that has just looked is asleep before it is woken.
            drop(work.lock());
            work.changed.notify_all();
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(Error::io("verifying")(std::io::Error::other("a verifying thread panicked")));
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
        map.populate(&bytes)?;
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
