use crate::cpu::pool::Pool;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

#[test]
fn each_task_runs_once() {
    let pool = Pool::new(4);
    for tasks in [0, 1, 2, 3, 100, 1000] {
        let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        pool.run(tasks, &|i| {
            counts[i].fetch_add(1, Ordering::Relaxed);
        });
        assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 1));
    }
}

#[test]
fn workers_join_in_also_after_they_slept() {
    let pool = Pool::new(3);
    // A task waits until all three threads are in one, so all have to come.
    let all = Barrier::new(3);
    for _ in 0..3 {
        pool.run(3, &|_| {
            all.wait();
        });
        // Longer than a worker spins; asleep or not, the next job has to reach it.
        std::thread::park_timeout(std::time::Duration::from_millis(2));
    }
}

#[test]
fn jobs_inside_a_job_and_from_other_threads_are_done_by_their_caller() {
    let pool = Pool::new(2);
    let done = AtomicUsize::new(0);
    let count = |_| {
        done.fetch_add(1, Ordering::Relaxed);
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| pool.run(10, &|_| pool.run(10, &count)));
        }
    });
    assert_eq!(done.load(Ordering::Relaxed), 400);
}

#[test]
fn a_panic_in_a_task_reaches_the_caller_and_the_pool_lives_on() {
    let pool = Pool::new(2);
    let both = Barrier::new(2);
    for guilty in [0, 1] {
        let run = || {
            pool.run(2, &|i| {
                both.wait();
                assert_ne!(i, guilty, "as wanted");
            });
        };
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
    }
    let done = AtomicUsize::new(0);
    pool.run(2, &|_| {
        both.wait();
        done.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(done.load(Ordering::Relaxed), 2);
}
