//! What has arrived: said by one thread, waited for by any.

use crate::Error;
use std::ops::Range;
use std::sync::{
    Arc, Condvar, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

/// A transfer under way; cheap to clone. It goes on when all handles are dropped.
#[derive(Clone, Debug)]
pub struct Arrivals(Arc<Board>);

#[derive(Debug)]
struct Board {
    /// All are there. Only ever set, so that who computes for long need not lock.
    complete: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    landed: Box<[bool]>,
    missing: usize,
    failure: Option<Arc<Error>>,
}

impl Arrivals {
    pub(crate) fn new(pieces: usize) -> Self {
        let state = State { landed: vec![false; pieces].into(), missing: pieces, failure: None };
        let complete = AtomicBool::new(pieces == 0);
        Self(Arc::new(Board { complete, state: Mutex::new(state), changed: Condvar::new() }))
    }

    /// Blocks until some pieces are on the device.
    ///
    /// # Errors
    /// The transfer has failed, whichever piece it was.
    ///
    /// # Panics
    /// Where there are no such pieces.
    pub fn wait(&self, pieces: Range<usize>) -> Result<(), Arc<Error>> {
        self.wait_until(|state| state.landed[pieces.clone()].iter().all(|landed| *landed))
    }

    /// Blocks until all pieces are.
    ///
    /// # Errors
    /// The transfer has failed.
    pub fn wait_all(&self) -> Result<(), Arc<Error>> {
        self.wait_until(|state| state.missing == 0)
    }

    /// All pieces are on the device.
    pub fn are_complete(&self) -> bool {
        self.0.complete.load(Ordering::Acquire)
    }

    fn wait_until(&self, arrived: impl Fn(&State) -> bool) -> Result<(), Arc<Error>> {
        if self.are_complete() {
            return Ok(());
        }
        let mut state = self.lock();
        loop {
            if let Some(error) = &state.failure {
                return Err(error.clone());
            }
            if arrived(&state) {
                return Ok(());
            }
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn landed(&self, piece: usize) {
        let mut state = self.lock();
        if !std::mem::replace(&mut state.landed[piece], true) {
            state.missing -= 1;
        }
        if state.missing == 0 && state.failure.is_none() {
            self.0.complete.store(true, Ordering::Release);
        }
        drop(state);
        self.0.changed.notify_all();
    }

    /// The first failure counts.
    pub(crate) fn fail(&self, error: Error) {
        self.lock().failure.get_or_insert_with(|| Arc::new(error));
        self.0.changed.notify_all();
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.lock().failure.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
