//! Time for guests: a tick a millisecond, while a call of one takes.
//!
//! **Invariant:** without a [`Running`] nothing ticks and no processor is woken; with one, whether a call is under way is looked at every
//! [`LOOK_EVERY`], as most calls are over in microseconds, and a processor that is woken each millisecond computes a percent less. A call's first tick
//! so comes that much after it has begun at most.

use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use wasmtime::EngineWeak;

/// What a budget is counted in.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// How often it is looked whether a call is under way.
const LOOK_EVERY: Duration = Duration::from_millis(4);

#[derive(Debug)]
pub(crate) struct Clock(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<Ticking>,
    changed: Condvar,
    /// Calls under way.
    calls: AtomicUsize,
}

#[derive(Debug, Default)]
struct Ticking {
    running: usize,
    ended: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, Ticking> {
        // Two numbers, right whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock {
    /// Starts the thread, which sleeps until somebody runs.
    pub fn start(engine: EngineWeak) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), calls: AtomicUsize::new(0) });
        let ticking = shared.clone();
        std::thread::Builder::new().name("guest-clock".into()).spawn(move || tick(&ticking, &engine))?;
        Ok(Self(shared))
    }

    /// Ticks while this is kept.
    pub fn run(&self) -> Running {
        let mut state = self.0.state();
        state.running += 1;
        if state.running == 1 {
            self.0.changed.notify_one();
        }
        Running(self.0.clone())
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.0.state().ended = true;
        self.0.changed.notify_one();
    }
}

fn tick(shared: &Shared, engine: &EngineWeak) {
    loop {
        let idle = |state: &mut Ticking| state.running == 0 && !state.ended;
        let state = shared.changed.wait_while(shared.state(), idle).unwrap_or_else(PoisonError::into_inner);
        if state.ended {
            return;
        }
        drop(state);
        let is_called = || shared.calls.load(Ordering::Relaxed) > 0;
        std::thread::sleep(if is_called() { TICK } else { LOOK_EVERY });
        match engine.upgrade() {
            Some(engine) if is_called() => engine.increment_epoch(),
            Some(_) => {}
            None => return,
        }
    }
}

/// Somebody may call a guest.
#[derive(Debug)]
pub(crate) struct Running(Arc<Shared>);

impl Running {
    /// A call is under way while this is kept.
    pub fn call(&self) -> Call {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        Call(self.0.clone())
    }
}

/// A call that is under way.
#[derive(Debug)]
pub(crate) struct Call(Arc<Shared>);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.state().running -= 1;
    }
}
