//! What a tenant may use: requests at once, requests and tokens a minute, memory of bodies.
//!
//! **Invariant:** what is refused here has changed nothing: no slot has heard of it. A [`Place`], and [`BodyMemory`], is given back by its drop.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use protocol::{ApiError, ErrorKind};

const MINUTE: f64 = 60.0;

/// Bounds; `None` is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Requests at the same time, held ones included.
    pub concurrency: Option<usize>,
    /// Requests a minute; as many at once, after a minute's pause.
    pub requests_per_minute: Option<u64>,
    /// Tokens a minute, those of prompts included. Told when an answer is over, so the last may go beyond it; the next then wait.
    pub tokens_per_minute: Option<u64>,
}

/// A minute's worth, which refills all the time.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn full(per_minute: u64, now: Instant) -> Self {
        Self { left: per_minute as f64, at: now }
    }

    fn refill(&mut self, per_minute: u64, now: Instant) {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * per_minute as f64 / MINUTE;
        self.left = (self.left + gained).min(per_minute as f64);
        self.at = now;
    }

    /// How long until there is `wanted` in it.
    fn wait(&self, wanted: f64, per_minute: u64) -> Duration {
        let missing = (wanted - self.left).max(0.0);
        Duration::try_from_secs_f64(missing * MINUTE / per_minute.max(1) as f64).unwrap_or(Duration::MAX)
    }
}

#[derive(Debug, Default)]
struct Buckets {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
}

/// What a tenant uses. It outlives changes of its bounds.
#[derive(Debug, Default)]
pub struct Usage {
    running: AtomicUsize,
    /// Of bodies, in KiB.
    body_kib: AtomicUsize,
    buckets: Mutex<Buckets>,
}

/// One request's. Dropping it gives it back.
#[derive(Debug)]
pub struct Place(Arc<Usage>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What one body has of its tenant's share of the memory for all bodies. Dropping it gives it back.
#[derive(Debug)]
pub struct BodyMemory {
    usage: Arc<Usage>,
    /// What all bodies of the tenant may have, in KiB.
    kib_max: usize,
    kib: usize,
}

impl BodyMemory {
    /// More of it, in KiB.
    ///
    /// # Errors
    /// 429: the tenant has its share. Nothing has changed.
    pub fn grow(&mut self, who: &str, kib: usize) -> Result<(), ApiError> {
        let within = |taken: usize| taken.checked_add(kib).filter(|taken| *taken <= self.kib_max);
        self.usage.body_kib.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).map_err(|_| {
            let most = self.kib_max;
            let message =
                format!("The requests of '{who}' fill its share of the memory set aside for them, {most} KiB.");
            ApiError::new(ErrorKind::QueueFull, message).retry_after(1)
        })?;
        self.kib += kib;
        Ok(())
    }
}

impl Drop for BodyMemory {
    fn drop(&mut self) {
        self.usage.body_kib.fetch_sub(self.kib, Ordering::Relaxed);
    }
}

impl Usage {
    /// One more body, which has nothing yet. `kib_max`: what all of the tenant may have together.
    pub fn body(self: &Arc<Self>, kib_max: usize) -> BodyMemory {
        BodyMemory { usage: self.clone(), kib_max, kib: 0 }
    }

    /// One more request, if the bounds allow it.
    ///
    /// # Errors
    /// 429 with the time after which asking again may help.
    pub fn enter(self: &Arc<Self>, who: &str, limits: &Limits, now: Instant) -> Result<Place, ApiError> {
        // Taken first and given back by its drop, so that two at once do not both find room.
        let running = self.running.fetch_add(1, Ordering::Relaxed);
        let place = Place(self.clone());
        if let Some(most) = limits.concurrency
            && running >= most
        {
            return Err(refusal(format!("'{who}' has {most} requests at once already, its limit."), Duration::ZERO));
        }
        let mut buckets = self.buckets();
        if let Some(most) = limits.tokens_per_minute {
            let tokens = buckets.tokens.get_or_insert_with(|| Bucket::full(most, now));
            tokens.refill(most, now);
            if tokens.left < 1.0 {
                let wait = tokens.wait(1.0, most);
                return Err(refusal(format!("'{who}' has used its {most} tokens a minute."), wait));
            }
        }
        if let Some(most) = limits.requests_per_minute {
            let requests = buckets.requests.get_or_insert_with(|| Bucket::full(most, now));
            requests.refill(most, now);
            if requests.left < 1.0 {
                let wait = requests.wait(1.0, most);
                return Err(refusal(format!("'{who}' has made its {most} requests a minute."), wait));
            }
            requests.left -= 1.0;
        }
        drop(buckets);
        Ok(place)
    }

    /// An answer has used so many.
    pub fn used(&self, tokens: u64) {
        if let Some(bucket) = &mut self.buckets().tokens {
            bucket.left -= tokens as f64;
        }
    }

    /// Requests at the moment.
    pub fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    fn buckets(&self) -> MutexGuard<'_, Buckets> {
        // Numbers are numbers whoever panicked over them.
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn refusal(message: String, wait: Duration) -> ApiError {
    let seconds = wait.as_secs_f64().ceil().clamp(1.0, 3600.0) as u32;
    ApiError::new(ErrorKind::RateLimited, message).retry_after(seconds)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let (usage, now) = (Arc::new(Usage::default()), Instant::now());
        let limits = Limits { concurrency: Some(2), ..Limits::default() };
        let enter = || usage.enter("t", &limits, now);
        let (one, _two) = (enter().unwrap(), enter().unwrap());
        let refused = enter().unwrap_err();
        assert_eq!((refused.kind, refused.retry_after_s), (ErrorKind::RateLimited, Some(1)));
        assert_eq!(usage.running(), 2);
        drop(one);
        assert!(enter().is_ok());
    }

    #[test]
    fn bodies_together_have_no_more_than_their_share_and_give_it_back() {
        let usage = Arc::new(Usage::default());
        let (mut one, mut other) = (usage.body(100), usage.body(100));
        one.grow("t", 60).unwrap();
        other.grow("t", 40).unwrap();
        let refused = one.grow("t", 1).unwrap_err();
        assert_eq!((refused.kind, refused.retry_after_s), (ErrorKind::QueueFull, Some(1)));
        assert!(refused.message.contains("'t'") && refused.message.contains("share"), "{}", refused.message);
        drop(other);
        one.grow("t", 40).unwrap();
        drop(one);
        assert_eq!(usage.body_kib.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn requests_a_minute_refill_all_the_time() {
        let (usage, start) = (Arc::new(Usage::default()), Instant::now());
        let limits = Limits { requests_per_minute: Some(6), ..Limits::default() };
        (0..6).for_each(|_| drop(usage.enter("t", &limits, start).unwrap()));
        assert_eq!(usage.enter("t", &limits, start).unwrap_err().retry_after_s, Some(10));
        assert_eq!(usage.running(), 0, "who is refused has no place");
        let later = start + Duration::from_secs(10);
        assert!(usage.enter("t", &limits, later).is_ok());
        assert!(usage.enter("t", &limits, later).is_err());
        let much_later = later + Duration::from_secs(3600);
        assert_eq!((0..9).filter(|_| usage.enter("t", &limits, much_later).is_ok()).count(), 6);
    }

    #[test]
    fn tokens_are_told_afterwards_and_paid_before_the_next() {
        let (usage, start) = (Arc::new(Usage::default()), Instant::now());
        let limits = Limits { tokens_per_minute: Some(600), ..Limits::default() };
        assert!(usage.enter("t", &limits, start).is_ok());
        usage.used(1200);
        let refused = usage.enter("t", &limits, start).unwrap_err();
        assert_eq!(refused.retry_after_s, Some(61));
        assert!(usage.enter("t", &limits, start + Duration::from_secs(61)).is_ok());
        assert!(usage.enter("other", &Limits::default(), start).is_ok(), "without a bound nothing is counted");
    }
}
