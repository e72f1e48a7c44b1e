//! Where a choice's time went, and a request's.

use protocol::{
    answer::Usage,
    resume::Trail,
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
    /// What other runtimes spent on the same answer: from arrival to the first token, and then, in milliseconds.
    before: Option<(f64, f64)>,
}

impl Totals {
    /// Nothing generated yet.
    pub fn new(wake: Wake, arrived: Instant, prompt: u32) -> Self {
        let (prefill, decode) = (Duration::ZERO, Duration::ZERO);
        Self { wake, arrived, prompt, tokens: 0, prefill, decode, first_sent: None, before: None }
    }

    /// The answer was begun elsewhere.
    pub fn behind(self, trail: &Trail) -> Self {
        let before = (!trail.choices.is_empty()).then_some((trail.first_token_ms, trail.predicted_ms));
        Self { before, ..self }
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
            predicted_ms: self.before.map_or(0.0, |(_, predicted)| predicted) + ms(self.decode),
            wake: self.wake,
            first_token_ms: self.before.map_or(self.wake.held_ms + since_arrival, |(first, _)| first),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::resume::Past;

    #[test]
    fn an_answer_that_was_begun_elsewhere_has_its_times_from_there() {
        let past = Past { index: 0, tokens: vec![1, 2], ended: false };
        let trail = Trail { choices: vec![past], first_token_ms: 40.0, predicted_ms: 900.0, ..Trail::default() };
        let now = Instant::now();
        let of = |trail: &Trail| {
            let mut totals = Totals::new(Wake { held_ms: 7.0, ..Wake::default() }, now, 5).behind(trail);
            let sampled = Some((now, now + Duration::from_millis(100)));
            let first_sent = Some(now + Duration::from_millis(3));
            totals.add(&Meter { prefill: Duration::from_millis(2), tokens: 4, sampled, first_sent });
            let timings = totals.timings();
            (timings.first_token_ms, timings.predicted_ms)
        };
        assert_eq!(of(&trail), (40.0, 1000.0));
        assert_eq!(of(&Trail::default()), (10.0, 100.0));
    }
}
