//! Timers that are used again: nearly none of a request's ever goes off, and to put one up and take it down again costs the runtime's lock twice.
//! One that is over stays where it is, and the next moves it: as that is due later, nothing is to be locked.
//!
//! **Invariant:** bounded. Who had a timer before may be woken by it once more, and finds nothing to do; what is left of its task's memory stays
//! until then.

use std::{
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::{
    task::unconstrained,
    time::{Instant, Sleep},
};

/// Timers that are kept for the next at most.
const FREE_MAX: usize = 256;

/// Those of one runtime. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Timers(Arc<Mutex<Vec<Pin<Box<Sleep>>>>>);

/// It took too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late;

/// One that somebody has.
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    home: Timers,
}

impl Timers {
    /// What comes of a future, if it does so by then. What is there at once is looked at first, and needs no timer.
    pub fn within<F: Future>(&self, deadline: Instant, future: F) -> Within<F> {
        Within { future, deadline, timer: None, timers: self.clone() }
    }

    fn take(&self, deadline: Instant) -> Timer {
        let free = self.free().pop();
        let sleep = match free {
            Some(mut sleep) => {
                sleep.as_mut().reset(deadline);
                sleep
            }
            None => Box::pin(tokio::time::sleep_until(deadline)),
        };
        Timer { sleep: Some(sleep), home: self.clone() }
    }

    fn free(&self) -> MutexGuard<'_, Vec<Pin<Box<Sleep>>>> {
        // Whole at all times.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pin_project! {
    /// See [`Timers::within`].
    pub struct Within<F> {
        #[pin]
        future: F,
        deadline: Instant,
        timer: Option<Timer>,
        timers: Timers,
    }
}

impl<F: Future> Future for Within<F> {
    type Output = Result<F::Output, Late>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Poll::Ready(output) = this.future.poll(cx) {
            return Poll::Ready(Ok(output));
        }
        let timer = this.timer.get_or_insert_with(|| this.timers.take(*this.deadline));
        timer.poll_due(cx).map(|()| Err(Late))
    }
}

impl Timer {
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.sleep {
            // Of whatever else has used its task's budget up.
            Some(sleep) => pin!(unconstrained(sleep)).poll(cx),
            None => Poll::Ready(()),
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut free = self.home.free();
        if let Some(sleep) = self.sleep.take().filter(|_| free.len() < FREE_MAX) {
            free.push(sleep);
        }
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_due(cx)
    }
}

impl hyper::rt::Sleep for Timer {}

impl hyper::rt::Timer for Timers {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(self.take(Instant::now() + duration))
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(self.take(deadline.into()))
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};

    #[tokio::test]
    async fn a_timer_is_used_again_for_later_and_for_sooner() {
        let timers = Timers::default();
        let after = |milliseconds| Instant::now() + Duration::from_millis(milliseconds);
        assert_eq!(timers.within(after(0), ready(1)).await, Ok(1));
        assert_eq!(timers.free().len(), 0, "what is there at once needs none");
        for milliseconds in [5, 20, 10] {
            let due = after(milliseconds);
            assert_eq!(timers.within(due, pending::<()>()).await, Err(Late));
            assert!(Instant::now() >= due);
            assert_eq!(timers.free().len(), 1);
        }
        let soon = async { tokio::time::sleep(Duration::from_millis(1)).await };
        assert_eq!(timers.within(after(1_000_000), soon).await, Ok(()));
        // Sooner than the one that was not waited for.
        let sooner = timers.within(after(5), pending::<()>());
        assert_eq!(tokio::time::timeout(Duration::from_secs(60), sooner).await, Ok(Err(Late)));
    }

    #[tokio::test]
    async fn no_more_are_kept_than_may_be() {
        let timers = Timers::default();
        let soon = Instant::now() + Duration::from_millis(1);
        let many = (0..2 * FREE_MAX).map(|_| timers.within(soon, pending::<()>()));
        futures_util::future::join_all(many).await;
        assert_eq!(timers.free().len(), FREE_MAX);
    }
}
