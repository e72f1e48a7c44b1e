//! Memory that a standby has the system give before it is needed: what an encrypted snapshot will be decrypted into. For any other it is given back.
//!
//! **Contract:** [`Ready::begin`] returns at once; [`Ready::take`] waits for one piece at most, which is some milliseconds where the processors are busy,
//! and returns what there is, as much of it ready as could be meanwhile. **Failure:** a system that has no memory for it leaves the rest to be asked for when it is written.

use crate::process;
use snapshot::Room;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

/// Bytes that are asked for at once: a huge page.
const PIECE_BYTES: u64 = 2 << 20;

/// Memory that is being made ready by a thread of its own.
#[derive(Debug)]
pub(crate) struct Ready {
    enough: Enough,
    thread: JoinHandle<Option<Room>>,
}

/// Tells the thread that there is enough, once nobody wants more.
#[derive(Debug)]
struct Enough(Arc<AtomicBool>);

impl Drop for Enough {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Ready {
    /// Begins with so many bytes; `None` where there are none to be had.
    pub fn begin(bytes: u64) -> Option<Self> {
        let enough = Arc::new(AtomicBool::new(false));
        let told = enough.clone();
        let thread = thread::Builder::new().name("ready".into()).spawn(move || fill(bytes, &told));
        match thread {
            Ok(thread) => Some(Self { enough: Enough(enough), thread }),
            Err(error) => {
                tracing::warn!(%error, "no memory is made ready: starting a thread");
                None
            }
        }
    }

    /// What there is.
    pub fn take(self) -> Option<Room> {
        drop(self.enough);
        self.thread.join().ok().flatten()
    }

    /// Gives it back, beside whatever else is done.
    pub fn release(self) {
        // Where no thread can be started it is given back here.
        drop(thread::Builder::new().name("release".into()).spawn(move || drop(self.take())));
    }
}

fn fill(bytes: u64, enough: &AtomicBool) -> Option<Room> {
    process::stand_back();
    let room = Room::huge(bytes).map_err(|error| tracing::warn!(%error, "no memory is made ready"));
    let mut room = room.ok()?;
    for at in (0..bytes).step_by(PIECE_BYTES as usize) {
        if enough.load(Ordering::Relaxed) {
            break;
        }
        if let Err(error) = room.make_ready(at..at.saturating_add(PIECE_BYTES)) {
            tracing::warn!(%error, bytes, ready = at, "only a part of the memory is made ready");
            break;
        }
    }
    Some(room)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ready_is_taken_and_what_is_not_is_not_waited_for() {
        let small = Ready::begin(3 << 20).unwrap();
        while !small.thread.is_finished() {
            thread::yield_now();
        }
        assert_eq!(small.take().unwrap().bytes(), 4 << 20);
        // Taken at once, a few pieces are there of as much as would fill this process.
        let large = Ready::begin(1 << 33).unwrap().take();
        let resident = crate::process::Resident::open().unwrap().bytes();
        assert!(resident < 1 << 32, "{resident} bytes of it were waited for");
        drop(large);
        Ready::begin(3 << 20).unwrap().release();
    }

    #[test]
    fn memory_that_cannot_be_had_is_none() {
        assert!(Ready::begin(u64::MAX / 2).unwrap().take().is_none());
    }
}
