//! The kernels' threads: a job is cut into tasks, and whoever is awake takes the next one.
//!
//! A token of a small model is two hundred operations of a few microseconds, so a worker that
//! has finished spins for [`SPIN`] before it sleeps: inside a token it is at once there, and
//! between requests it costs nothing. The caller works too, and waits only for workers that have
//! joined: a worker that the system does not schedule delays nobody, so other load on the machine
//! slows us down but cannot stall us.
//!
//! **Invariants:** one job at a time; whoever finds the pool busy runs its tasks alone. A worker
//! reads the job only between joining it and leaving it, and the caller returns only after the
//! job is closed and everybody has left.

use super::shares::Shares;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, TryLockError};
use std::time::{Duration, Instant};

/// How long an idle worker looks for the next job before it sleeps.
const SPIN: Duration = Duration::from_micros(60);
/// Looks between two readings of the clock while spinning.
const LOOKS: usize = 64;
/// More threads than this are never used.
pub(crate) const THREADS_MAX: usize = 64;

type Task<'a> = dyn Fn(usize) + Sync + 'a;

struct Job {
    task: *const Task<'static>,
    tasks: usize,
}

struct Shared {
    /// `generation << 32 | OPEN | joined`.
    state: AtomicU64,
    job: UnsafeCell<Job>,
    next: AtomicUsize,
    panicked: AtomicBool,
    /// Workers asleep or about to be.
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is written by the one caller that holds `Pool::busy` while the state is closed
// with nobody joined, and read only by those who joined an open state; everything else is atomic.
unsafe impl Sync for Shared {}

const OPEN: u64 = 1 << 31;
const GENERATION: u64 = 1 << 32;
const JOINED: u64 = OPEN - 1;

/// Threads that run jobs together with the one that asks.
pub(crate) struct Pool {
    shared: &'static Shared,
    /// Whoever has it may open a job, and has the shares.
    busy: Mutex<()>,
    shares: Shares,
    threads: usize,
}

static POOL: OnceLock<Pool> = OnceLock::new();

/// The pool of the process; made with the available parallelism where [`configure`] was not called.
pub(crate) fn pool() -> &'static Pool {
    POOL.get_or_init(|| Pool::new(std::thread::available_parallelism().map_or(1, usize::from)))
}

/// Makes the pool with `threads` threads, the caller's included; `false` where it exists already.
pub(crate) fn configure(threads: usize) -> bool {
    let mut made = false;
    POOL.get_or_init(|| {
        made = true;
        Pool::new(threads)
    });
    made
}

impl Pool {
    /// `threads` counts the caller; what cannot be spawned is done without.
    pub fn new(threads: usize) -> Self {
        // Workers live as long as the process does, and so does what they share.
        let shared: &'static Shared = Box::leak(Box::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(Job { task: &|_| (), tasks: 0 }),
            next: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        }));
        let spawn = |i: &usize| {
            let name = format!("kernels-{i}");
            let worker = std::thread::Builder::new().name(name);
            worker.spawn(|| shared.work()).is_ok()
        };
        let workers = (1..threads.clamp(1, THREADS_MAX)).take_while(spawn).count();
        Self { shared, busy: Mutex::new(()), shares: Shares::new(workers + 1), threads: workers + 1 }
    }

    /// Threads that may work on a job.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `task(0..tasks)`, each once, on any thread in any order, and returns when all are done.
    ///
    /// # Panics
    /// Where a task panics, after all others have ended.
    pub fn run(&self, tasks: usize, task: &Task) {
        match self.enter(tasks) {
            Some(_free) => self.run_held(tasks, task),
            None => (0..tasks).for_each(task),
        }
    }

    /// Runs `work` on ranges that together are `0..units`, at most `grain` long each. A thread has neighbouring ones, in order,
    /// as long as its share lasts; then it takes from the ends of others' shares.
    ///
    /// # Panics
    /// Where `work` panics, after all others have ended.
    pub fn share(&self, units: usize, grain: usize, work: &(dyn Fn(Range<usize>) + Sync)) {
        let Some(_free) = self.enter(units.div_ceil(grain)) else {
            return (0..units).step_by(grain).for_each(|first| work(first..units.min(first + grain)));
        };
        self.shares.deal(units, grain);
        self.run_held(self.threads, &|mine| {
            while let Some(range) = self.shares.take(mine, grain) {
                work(range);
            }
        });
    }

    /// `None` where the caller is to do it alone.
    fn enter(&self, tasks: usize) -> Option<MutexGuard<'_, ()>> {
        if self.threads == 1 || tasks <= 1 {
            return None;
        }
        match self.busy.try_lock() {
            Ok(free) => Some(free),
            // A panicked job has ended like any other, so its poison says nothing.
            Err(TryLockError::Poisoned(poison)) => Some(poison.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The caller holds `busy`.
    fn run_held(&self, tasks: usize, task: &Task) {
        let open = self.shared.open(tasks, task);
        self.shared.take_tasks(task, tasks);
        drop(open);
        if self.shared.panicked.swap(false, Relaxed) {
            panic!("a task of a kernel panicked on another thread");
        }
    }
}

/// A job under way: dropping it closes the job and waits for those who joined.
struct Open(&'static Shared);

impl Drop for Open {
    fn drop(&mut self) {
        // Nothing is left to take, also where the caller's own task panicked.
        self.0.next.store(usize::MAX / 2, Relaxed);
        let mut looks = 0;
        self.0.state.fetch_and(!OPEN, AcqRel);
        while self.0.state.load(Acquire) & JOINED != 0 {
            looks += 1;
            if looks % (16 * LOOKS) == 0 {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

/// A worker inside a job: leaves it on drop, also when the task panics.
struct Joined<'a>(&'a Shared);

impl Drop for Joined<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.panicked.store(true, Relaxed);
        }
        self.0.state.fetch_sub(1, Release);
    }
}

impl Shared {
    fn open(&'static self, tasks: usize, task: &Task) -> Open {
        // SAFETY: only the lifetime is changed; `Open` keeps the borrow from ending early.
        let task: *const Task<'static> = unsafe { std::mem::transmute(task as *const Task) };
        // SAFETY: the caller holds `busy`, the state is closed and nobody is joined.
        unsafe { *self.job.get() = Job { task, tasks } };
        self.next.store(0, Relaxed);
        // Of a job whose caller panicked, too, and so did not look.
        self.panicked.store(false, Relaxed);
        let generation = (self.state.load(Relaxed) & !(GENERATION - 1)).wrapping_add(GENERATION);
        self.state.store(generation | OPEN, SeqCst);
        if self.sleepers.load(SeqCst) > 0 {
            let _asleep = self.lock.lock();
            self.wake.notify_all();
        }
        Open(self)
    }

    fn take_tasks(&self, task: &Task, tasks: usize) {
        loop {
            let i = self.next.fetch_add(1, Relaxed);
            if i >= tasks {
                return;
            }
            task(i);
        }
    }

    fn work(&self) {
        let mut seen = 0;
        loop {
            let state = self.wait(seen);
            seen = state / GENERATION;
            let joined = self.state.compare_exchange(state, state + 1, Acquire, Relaxed);
            if joined.is_err() {
                // Somebody else joined in between, or the job is over: look again.
                seen -= 1;
                continue;
            }
            let run = std::panic::AssertUnwindSafe(|| {
                let _joined = Joined(self);
                // SAFETY: joined an open state, so the job stays until `_joined` is dropped.
                let (task, tasks) = unsafe {
                    let job = &*self.job.get();
                    (&*job.task, job.tasks)
                };
                self.take_tasks(task, tasks);
            });
            // The caller learns of it through `panicked`; the worker lives on.
            let _ = std::panic::catch_unwind(run);
        }
    }

    /// Waits for an open job of another generation than `seen`.
    fn wait(&self, seen: u64) -> u64 {
        let is_new = |state: u64| state & OPEN != 0 && state / GENERATION != seen;
        let start = Instant::now();
        while start.elapsed() < SPIN {
            for _ in 0..LOOKS {
                let state = self.state.load(Acquire);
                if is_new(state) {
                    return state;
                }
                std::hint::spin_loop();
            }
        }
        let mut guard = self.lock.lock().unwrap_or_else(|e| e.into_inner());
        self.sleepers.fetch_add(1, SeqCst);
        loop {
            let state = self.state.load(SeqCst);
            if is_new(state) {
                self.sleepers.fetch_sub(1, SeqCst);
                return state;
            }
            guard = self.wake.wait(guard).unwrap_or_else(|e| e.into_inner());
        }
    }
}
