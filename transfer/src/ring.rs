//! The ring: a fixed number of staging buffers, threads that fill and send them, and one that waits for the device.

use crate::{Arrivals, Error, Flight, Link, Piece};
use std::{
    ops::Range,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

/// How large a ring is. Its memory is `buffers * buffer_bytes`, whatever the size of the source.
#[derive(Clone, Copy, Debug)]
pub struct Ring {
    /// Staging buffers; with fewer than two per thread, filling and copying wait for each other.
    pub buffers: usize,
    /// Size of each: no piece is longer.
    pub buffer_bytes: usize,
    /// Threads that fill.
    pub threads: usize,
}

type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Starts to bring `pieces` onto the device; `source` fills a buffer with a range of bytes, on several threads at once.
///
/// # Errors
/// A piece is longer than a buffer or a part reaches beyond its piece; no staging buffers; no thread.
pub fn start<L, S>(mut link: L, pieces: Vec<Piece<L::Memory>>, source: S, ring: Ring) -> Result<Arrivals, Error>
where
    L: Link,
    S: Fn(Range<u64>, &mut [u8]) -> Result<(), SourceError> + Send + Sync + 'static,
{
    pieces.iter().try_for_each(|piece| check(piece, ring.buffer_bytes))?;
    let arrivals = Arrivals::new(pieces.len());
    if pieces.is_empty() {
        return Ok(arrivals);
    }
    let buffers = ring.buffers.clamp(1, pieces.len());
    let free = (0..buffers).map(|_| link.staging(ring.buffer_bytes)).collect::<Result<Vec<_>, _>>()?;
    let (landing, flights) = mpsc::channel();
    let work = Arc::new(Work {
        count: pieces.len(),
        pieces: pieces.into_iter().map(|piece| Mutex::new(Some(piece))).collect(),
        next: AtomicUsize::new(0),
        link: Mutex::new(link),
        source,
        free: Mutex::new(free),
        given_back: Condvar::new(),
        arrivals: arrivals.clone(),
    });
    let lander = work.clone();
    spawn("transfer-land".into(), work.clone(), move || lander.land(flights))?;
    for number in 0..ring.threads.clamp(1, buffers) {
        let (filler, landing) = (work.clone(), landing.clone());
        match spawn(format!("transfer-{number}"), work.clone(), move || filler.fill(&landing)) {
            // Those that did start do all of it.
            Err(_) if number > 0 => break,
            started => started?,
        }
    }
    Ok(arrivals)
}

fn check<M>(piece: &Piece<M>, buffer_bytes: usize) -> Result<(), Error> {
    let bytes = piece.range.end.checked_sub(piece.range.start).and_then(|bytes| usize::try_from(bytes).ok());
    let Some(bytes) = bytes.filter(|bytes| *bytes <= buffer_bytes) else {
        return Err(Error::Plan(format!("bytes {:?} in a buffer of {buffer_bytes}", piece.range)));
    };
    match piece.parts.iter().find(|part| part.from.start > part.from.end || part.from.end > bytes) {
        Some(part) => Err(Error::Plan(format!("part {:?} of a piece of {bytes} bytes", part.from))),
        None => Ok(()),
    }
}

/// A thread whose panic is a failure of the transfer.
fn spawn<L: Link, S: Send + Sync + 'static>(
    name: String,
    work: Arc<Work<L, S>>,
    run: impl FnOnce() + Send + 'static,
) -> Result<(), Error> {
    let guarded = move || {
        let guard = Guard(work);
        run();
        drop(guard);
    };
    let started = thread::Builder::new().name(name.clone()).spawn(guarded);
    started.map(drop).map_err(|error| Error::Thread(format!("starting thread {name}: {error}")))
}

struct Guard<L: Link, S>(Arc<Work<L, S>>);

impl<L: Link, S> Drop for Guard<L, S> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.fail(Error::Thread("a thread of the transfer panicked".into()));
        }
    }
}

struct Work<L: Link, S> {
    count: usize,
    /// Each is taken once.
    pieces: Vec<Mutex<Option<Piece<L::Memory>>>>,
    next: AtomicUsize,
    link: Mutex<L>,
    source: S,
    free: Mutex<Vec<L::Staging>>,
    given_back: Condvar,
    arrivals: Arrivals,
}

type Landing<L> = mpsc::Sender<(usize, <L as Link>::Flight)>;

impl<L: Link, S> Work<L, S> {
    /// Records it, leaves nothing to take, and wakes who waits for a buffer.
    fn fail(&self, error: Error) {
        self.arrivals.fail(error);
        self.next.store(self.count, Ordering::Relaxed);
        // Taken and released, so that who has just looked is asleep before it is woken.
        drop(lock(&self.free));
        self.given_back.notify_all();
    }

    /// A free buffer, when there is one; none after a failure.
    fn buffer(&self) -> Option<L::Staging> {
        let mut free = lock(&self.free);
        loop {
            if self.arrivals.has_failed() {
                return None;
            }
            if let Some(buffer) = free.pop() {
                return Some(buffer);
            }
            free = self.given_back.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn give_back(&self, buffer: L::Staging) {
        lock(&self.free).push(buffer);
        self.given_back.notify_one();
    }

    /// Waits for the device, in the order in which copies were started.
    fn land(&self, flights: mpsc::Receiver<(usize, L::Flight)>) {
        for (number, flight) in flights {
            match flight.land() {
                Ok(buffer) => {
                    self.arrivals.landed(number);
                    self.give_back(buffer);
                }
                Err(error) => self.fail(error),
            }
        }
    }
}

impl<L, S> Work<L, S>
where
    L: Link,
    S: Fn(Range<u64>, &mut [u8]) -> Result<(), SourceError>,
{
    fn fill(&self, landing: &Landing<L>) {
        while let Some((number, piece)) = self.next_piece() {
            let Some(buffer) = self.buffer() else { return };
            match self.send(piece, buffer) {
                // The other end is there as long as any of these threads.
                Ok(flight) => drop(landing.send((number, flight))),
                Err(error) => return self.fail(error),
            }
        }
    }

    fn next_piece(&self) -> Option<(usize, Piece<L::Memory>)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let piece = lock(self.pieces.get(number)?).take()?;
        Some((number, piece))
    }

    fn send(&self, piece: Piece<L::Memory>, mut buffer: L::Staging) -> Result<L::Flight, Error> {
        // Checked before anything was started.
        let bytes = (piece.range.end - piece.range.start) as usize;
        (self.source)(piece.range, &mut buffer.as_mut()[..bytes]).map_err(Error::Source)?;
        lock(&self.link).send(buffer, piece.parts)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
