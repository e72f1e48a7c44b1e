//! Where a choice's time went, and a request's.

use protocol::{
    answer::Usage,
    resume::Trail,
    steps::Steps,
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
    /// Tokens of what guests have made of them, at the end; `None` where there are no guests.
    pub said: Option<u32>,
    /// When the first was sampled, and the last.
    pub sampled: Option<(Instant, Instant)>,
    /// When the first could be sent.
    pub first_sent: Option<Instant>,
}

impl Meter {
    /// Tokens that are counted to who asked.
    pub fn counted(&self) -> u32 {
        self.said.unwrap_or(self.tokens)
    }

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
    /// What of them, or in place of them, is counted to who asked.
    counted: u32,
    prefill: Duration,
    decode: Duration,
    first_sent: Option<Instant>,
    /// Where somebody makes a trace of it: when the engine got the prompts.
    queued: Option<Instant>,
    /// When the engine began, when the first token was sampled, and when the last.
    sampled: Option<(Instant, Instant, Instant)>,
    /// What other runtimes spent on the same answer: from arrival to the first token, and then, in milliseconds.
    before: Option<(f64, f64)>,
}

impl Totals {
    /// Nothing generated yet.
    pub fn new(wake: Wake, arrived: Instant, prompt: u32) -> Self {
        let (prefill, decode) = (Duration::ZERO, Duration::ZERO);
        let (first_sent, queued, sampled, before) = (None, None, None, None);
        Self { wake, arrived, prompt, tokens: 0, counted: 0, prefill, decode, first_sent, queued, sampled, before }
    }

    /// The answer was begun elsewhere.
    pub fn behind(self, trail: &Trail) -> Self {
        let before = (!trail.choices.is_empty()).then_some((trail.first_token_ms, trail.predicted_ms));
        Self { before, ..self }
    }

    /// Somebody makes a trace of it, and the engine has the prompts now.
    pub fn traced(self, now: Instant) -> Self {
        Self { queued: Some(now), ..self }
    }

    /// When what was done, for the trace; `None` where nobody makes one, or no token came of it.
    pub fn steps(&self) -> Option<Steps> {
        let (queued, (begun, first, last)) = (self.queued?, self.sampled?);
        let after = |at: Instant, least: u64| {
            let since = at.saturating_duration_since(self.arrived).as_micros();
            u64::try_from(since).unwrap_or(u64::MAX).max(least)
        };
        // The engine can have begun before that was noted, which takes nothing from what it measured.
        let begun = after(begun, 0);
        let queued = after(queued, 0).min(begun);
        let first = after(first, begun);
        Some(Steps { queued, begun, first, last: after(last, first) })
    }

    /// Adds a finished choice.
    pub fn add(&mut self, meter: &Meter) {
        self.tokens += meter.tokens;
        self.counted += meter.counted();
        self.prefill = self.prefill.max(meter.prefill);
        self.decode = self.decode.max(meter.sampled.map_or(Duration::ZERO, |(first, last)| last - first));
        self.first_sent = self.first_sent.into_iter().chain(meter.first_sent).min();
        if let Some((first, last)) = meter.sampled {
            let begun = first.checked_sub(meter.prefill).unwrap_or(first);
            let (b, f, l) = self.sampled.unwrap_or((begun, first, last));
            self.sampled = Some((begun.min(b), first.min(f), last.max(l)));
        }
    }

    /// A choice that has been added has another text now, of so many tokens.
    pub fn recount(&mut self, before: u32, now: u32) {
        self.counted = self.counted.saturating_sub(before).saturating_add(now);
    }

    /// Tokens read and written; of a text that guests have changed, those of what the client gets.
    pub fn usage(&self) -> Usage {
        Usage::new(self.prompt, self.counted)
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
    fn steps_are_told_in_order_and_only_where_a_trace_is_made() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let meter = |prefill, first, last| Meter {
            prefill: Duration::from_millis(prefill),
            tokens: 2,
            said: None,
            sampled: Some((at(first), at(last))),
            first_sent: Some(at(first)),
        };
        let mut totals = Totals::new(Wake::default(), began, 5);
        totals.add(&meter(20, 30, 90));
        assert_eq!(totals.steps(), None);
        let mut totals = Totals::new(Wake::default(), began, 5).traced(at(5));
        assert_eq!(totals.steps(), None, "nothing was sampled");
        totals.add(&meter(20, 30, 90));
        totals.add(&meter(5, 40, 95));
        let steps = |queued, begun, first, last| Some(Steps { queued, begun, first, last });
        assert_eq!(totals.steps(), steps(5_000, 10_000, 30_000, 95_000));
        // The engine can be faster than who notes that it has the prompt.
        assert_eq!(totals.traced(at(31)).steps(), steps(10_000, 10_000, 30_000, 95_000));
    }

    #[test]
    fn an_answer_that_was_begun_elsewhere_has_its_times_from_there() {
        let past = Past { index: 0, tokens: vec![1, 2], ..Past::default() };
        let trail = Trail { choices: vec![past], first_token_ms: 40.0, predicted_ms: 900.0, ..Trail::default() };
        let now = Instant::now();
        let of = |trail: &Trail| {
            let mut totals = Totals::new(Wake { held_ms: 7.0, ..Wake::default() }, now, 5).behind(trail);
            let sampled = Some((now, now + Duration::from_millis(100)));
            let first_sent = Some(now + Duration::from_millis(3));
            totals.add(&Meter { prefill: Duration::from_millis(2), tokens: 4, said: None, sampled, first_sent });
            let timings = totals.timings();
            (timings.first_token_ms, timings.predicted_ms)
        };
        assert_eq!(of(&trail), (40.0, 1000.0));
        assert_eq!(of(&Trail::default()), (10.0, 100.0));
    }
}
