//! Where a choice's time went, and a request's.

use protocol::{
    answer::Usage,
    timings::{Timings, Wake},
};
use std::time::{Duration, Instant};

/// One choice's numbers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    /// From admission to the end of prefill.
    pub prefill: Duration,
    /// Tokens generated.
    pub tokens: u32,
    /// When the first was sampled, and the last.
    pub sampled: Option<(Instant, Instant)>,
    /// When the first could be sent.
    pub first_sent: Option<Instant>,
}

impl Meter {
    /// Counts a token that was sampled at `at` and can be sent now.
    pub fn count(&mut self, at: Instant, now: Instant) {
        self.tokens += 1;
        self.sampled = Some((self.sampled.map_or(at, |(first, _)| first), at));
        self.first_sent.get_or_insert(now);
    }
}

/// A request's numbers: counts are sums, times are those of the slowest choice.
#[derive(Clone, Copy, Debug)]
pub struct Totals {
    wake: Wake,
    arrived: Instant,
    /// Over all prompts, each counted once.
    prompt: u32,
    tokens: u32,
    prefill: Duration,
    decode: Duration,
    first_sent: Option<Instant>,
}

impl Totals {
    /// Nothing generated yet.
    pub fn new(wake: Wake, arrived: Instant, prompt: u32) -> Self {
        Self { wake, arrived, prompt, tokens: 0, prefill: Duration::ZERO, decode: Duration::ZERO, first_sent: None }
    }

    /// Adds a finished choice.
    pub fn add(&mut self, meter: &Meter) {
        self.tokens += meter.tokens;
        self.prefill = self.prefill.max(meter.prefill);
        self.decode = self.decode.max(meter.sampled.map_or(Duration::ZERO, |(first, last)| last - first));
        self.first_sent = self.first_sent.into_iter().chain(meter.first_sent).min();
    }

    /// Tokens read and written.
    pub fn usage(&self) -> Usage {
        Usage::new(self.prompt, self.tokens)
    }

    /// The timeline.
    pub fn timings(&self) -> Timings {
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        let since_arrival = self.first_sent.map_or(0.0, |at| ms(at.saturating_duration_since(self.arrived)));
        Timings {
            prompt_n: self.prompt,
            prompt_ms: ms(self.prefill),
            predicted_n: self.tokens,
            predicted_ms: ms(self.decode),
            wake: self.wake,
            first_token_ms: self.wake.held_ms + since_arrival,
        }
    }
}
