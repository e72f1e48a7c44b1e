//! A request's way to its first token, drawn for a terminal: one bar a span, milliseconds beside it.
//!
//! **Invariant:** pure: measured numbers in, lines out. A span that was not measured is not drawn.

use crate::client::Chat;

/// Cells of the widest bar.
const WIDTH: usize = 40;

/// One span, in milliseconds from the moment the client asked.
#[derive(Clone, Debug, PartialEq)]
struct Span {
    name: &'static str,
    from_ms: f64,
    ms: f64,
}

/// The lines for one chat, with bars to the scale of `scale_ms` (so that two charts can be compared).
pub fn draw(title: &str, chat: &Chat, scale_ms: f64) -> Vec<String> {
    let mut lines = vec![title.to_owned()];
    lines.extend(spans(chat).iter().map(|span| row(span, scale_ms)));
    lines.push(summary(chat));
    lines
}

/// The time to the first token as the client saw it.
pub fn first_token_ms(chat: &Chat) -> f64 {
    chat.first_token.as_secs_f64() * 1e3
}

/// Where the spans lie. A launch begins when the request is held, a restore ends when it is forwarded, and prefill ends with
/// the first token; what is between them is not named, and stays empty.
fn spans(chat: &Chat) -> Vec<Span> {
    let (timings, wake) = (&chat.timings, &chat.timings.wake);
    let mut spans = Vec::new();
    if wake.cold {
        spans.push(Span { name: "held", from_ms: 0.0, ms: wake.held_ms });
        spans.push(Span { name: "  launch", from_ms: 0.0, ms: wake.launch_ms });
        spans.push(Span { name: "  restore", from_ms: (wake.held_ms - wake.restore_ms).max(0.0), ms: wake.restore_ms });
    }
    let prefill_from = (timings.first_token_ms - timings.prompt_ms).max(0.0);
    spans.push(Span { name: "prefill", from_ms: prefill_from, ms: timings.prompt_ms });
    spans.push(Span { name: "first token", from_ms: 0.0, ms: first_token_ms(chat) });
    spans
}

fn row(span: &Span, scale_ms: f64) -> String {
    let cell = |ms: f64| {
        if scale_ms > 0.0 { (ms / scale_ms * WIDTH as f64).round().clamp(0.0, WIDTH as f64) as usize } else { 0 }
    };
    let from = cell(span.from_ms).min(WIDTH - 1);
    // A span that happened is seen, however short.
    let to = cell(span.from_ms + span.ms).clamp(from + 1, WIDTH);
    let bar: String = (0..WIDTH).map(|at| if (from..to).contains(&at) { '█' } else { ' ' }).collect();
    format!("  {:<12} {bar} {:>9.1} ms", span.name, span.ms)
}

fn summary(chat: &Chat) -> String {
    let timings = &chat.timings;
    // The first token is the end of prefill: the time after it made the others.
    let later = f64::from(timings.predicted_n.saturating_sub(1));
    let rate = if timings.predicted_ms > 0.0 {
        format!(" at {:.0} tokens/s", later / timings.predicted_ms * 1e3)
    } else {
        String::new()
    };
    format!("  {} prompt tokens, {} answer tokens{rate}", timings.prompt_n, timings.predicted_n)
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::timings::{Timings, Wake};
    use std::time::Duration;

    fn chat(cold: bool) -> Chat {
        let wake = if cold { Wake { cold, held_ms: 40.0, launch_ms: 10.0, restore_ms: 30.0 } } else { Wake::default() };
        let timings =
            Timings { prompt_n: 20, prompt_ms: 40.0, predicted_n: 11, predicted_ms: 100.0, wake, first_token_ms: 80.0 };
        Chat { first_token: Duration::from_millis(80), timings }
    }

    #[test]
    fn a_cold_request_shows_its_wait_to_scale() {
        let lines = draw("first request", &chat(true), 80.0);
        let bar = |name: &str| {
            let line = lines.iter().find(|line| line.contains(name)).map(String::as_str).unwrap_or_default();
            let cells: Vec<char> = line.chars().skip(15).take(WIDTH).collect();
            (cells.iter().position(|c| *c == '█'), cells.iter().filter(|c| **c == '█').count())
        };
        assert_eq!(bar("held"), (Some(0), 20));
        assert_eq!(bar("launch"), (Some(0), 5));
        assert_eq!(bar("restore"), (Some(5), 15));
        assert_eq!(bar("prefill"), (Some(20), 20));
        assert_eq!(bar("first token"), (Some(0), 40));
        assert!(lines.iter().any(|line| line.contains("11 answer tokens at 100 tokens/s")), "{lines:?}");
    }

    #[test]
    fn a_hot_request_was_not_held() {
        let lines = draw("second request", &chat(false), 800.0);
        assert!(!lines.iter().any(|line| line.contains("held")));
    }

    #[test]
    fn no_measure_breaks_the_drawing() {
        for (from_ms, ms, scale) in [(0.0, 0.0, 0.0), (1e9, 5.0, 1.0), (0.0, f64::NAN, 10.0), (-3.0, 1.0, 10.0)] {
            assert!(row(&Span { name: "x", from_ms, ms }, scale).contains('█'));
        }
    }
}
