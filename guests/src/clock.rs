//! Time for guests: a tick a millisecond, while anybody may call one.
//!
//! **Invariant:** without a [`Running`] nothing ticks and no processor is woken.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use wasmtime::EngineWeak;

/// What a budget is counted in.
pub(crate) const TICK: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(crate) struct Clock(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<Ticking>,
    changed: Condvar,
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
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
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
        std::thread::sleep(TICK);
        match engine.upgrade() {
            Some(engine) => engine.increment_epoch(),
            None => return,
        }
    }
}

/// Somebody may call a guest.
#[derive(Debug)]
pub(crate) struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.state().running -= 1;
    }
}
