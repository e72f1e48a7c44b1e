//! How fast a stream's tokens come: the time between two events of a choice, for each token between them.
//!
//! **Invariant:** next to no cost on a stream's way: the histogram is looked up once a stream, the clock read once for all that came together.
//!
//! What comes in one piece counts as one event. A choice's first tokens are the first-token time's matter, and a stream that goes on in another
//! runtime begins anew: the pause between is no pace of an engine.

use std::time::Instant;

use prometheus_client::metrics::histogram::Histogram;

/// One stream's.
#[derive(Debug)]
pub struct Pace {
    seconds: Histogram,
    choices: Vec<Choice>,
    /// Tokens have come since the last tick.
    moved: bool,
}

#[derive(Debug)]
struct Choice {
    index: u32,
    /// Tokens since then.
    tokens: u32,
    /// When the last ones before came.
    last: Option<Instant>,
}

impl Pace {
    /// Nothing has come yet. What does is observed there.
    pub fn new(seconds: Histogram) -> Self {
        Self { seconds, choices: Vec::new(), moved: false }
    }

    /// A choice has used so many tokens.
    pub fn used(&mut self, index: u32, tokens: u32) {
        if tokens == 0 {
            return;
        }
        self.moved = true;
        match self.choices.iter_mut().find(|choice| choice.index == index) {
            Some(choice) => choice.tokens += tokens,
            None => self.choices.push(Choice { index, tokens, last: None }),
        }
    }

    /// All that was noted has come now.
    pub fn tick(&mut self, now: impl FnOnce() -> Instant) {
        if !std::mem::take(&mut self.moved) {
            return;
        }
        let now = now();
        for choice in self.choices.iter_mut().filter(|choice| choice.tokens > 0) {
            let tokens = f64::from(std::mem::take(&mut choice.tokens));
            if let Some(last) = choice.last.replace(now) {
                self.seconds.observe(now.saturating_duration_since(last).as_secs_f64() / tokens);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{config::KnativeLabels, metrics::Metrics};
    use std::time::Duration;

    #[test]
    fn the_time_between_two_events_of_a_choice_is_shared_by_their_tokens() {
        let metrics = Metrics::new(&KnativeLabels::default());
        let mut pace = Pace::new(metrics.counts("m").inter_token());
        let began = Instant::now();
        let at = |ms| move || began + Duration::from_millis(ms);
        let mut come = |ms, tokens: &[(u32, u32)]| {
            tokens.iter().for_each(|(choice, tokens)| pace.used(*choice, *tokens));
            pace.tick(at(ms));
        };
        // The first of each choice have nothing before them.
        come(0, &[(0, 1)]);
        come(10, &[(1, 1)]);
        // 60 ms for three tokens, in two events that came together; 100 ms for one.
        come(60, &[(0, 1), (0, 2)]);
        come(110, &[(1, 1), (0, 0)]);
        // Nothing came for anybody.
        come(5000, &[]);
        let text = metrics.text();
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert_eq!(line("pilotlight_inter_token_seconds_count"), "pilotlight_inter_token_seconds_count{model=\"m\"} 2");
        let (_, sum) = line("pilotlight_inter_token_seconds_sum")
            .rsplit_once(' ')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .unwrap();
        assert!((sum.parse::<f64>().unwrap() - 0.12).abs() < 1e-9, "{sum}");
        assert!(text.contains("pilotlight_inter_token_seconds_bucket{le=\"0.0005\",model=\"m\"} 0"), "{text}");
    }
}
