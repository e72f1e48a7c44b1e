//! Text that is not settled yet, and what a guest's edit may say of it.
//!
//! **Invariant:** a guest sees every byte until it has settled it, in order, on character boundaries; what is held back is bounded in bytes and
//! time, and nothing is at the end; what is said grows by no more than [`GROWTH_BYTES_MAX`] in all.

use std::time::{Duration, Instant};

use crate::{failure::Failure, spec::Budgets, types::Edit};

/// What all emitted text may be longer than what was settled for it, in bytes.
const GROWTH_BYTES_MAX: usize = 1 << 20;

/// What counts of the time between two calls: when others compute, nobody holds anything back.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// One guest's, of one choice.
#[derive(Debug, Default)]
pub(crate) struct Window {
    held: String,
    /// For how long, and until when that was counted.
    waited: Option<(Duration, Instant)>,
    growth: usize,
}

impl Window {
    /// More text comes behind what is held back. What a guest is to see now.
    pub fn push(&mut self, text: &str) -> &str {
        self.held.push_str(text);
        &self.held
    }

    /// What the client gets for what a guest has settled.
    pub fn settle(&mut self, edit: Edit, end: bool, budgets: &Budgets, now: Instant) -> Result<String, Failure> {
        let consumed = edit.consumed as usize;
        if consumed > self.held.len() {
            let there = self.held.len();
            return Err(Failure::Invalid(format!("settled {consumed} bytes of a window of {there}")));
        }
        if !self.held.is_char_boundary(consumed) {
            return Err(Failure::Invalid(format!("settled {consumed} bytes, in the middle of a character")));
        }
        let left = self.held.len() - consumed;
        // Who ends the generation has no use for the rest.
        if end && left > 0 && !edit.stop {
            return Err(Failure::Invalid(format!("held back {left} bytes at the end")));
        }
        if left > budgets.held_bytes {
            return Err(Failure::Invalid(format!("held back {left} bytes, more than its {}", budgets.held_bytes)));
        }
        let waited = match self.waited {
            Some((waited, at)) if consumed == 0 => waited + now.saturating_duration_since(at).min(PAUSE_MAX),
            _ => Duration::ZERO,
        };
        if waited > budgets.held() {
            return Err(Failure::Invalid(format!("held back text for longer than its {} ms", budgets.held_ms)));
        }
        self.growth += edit.emit.as_ref().map_or(0, |emit| emit.len().saturating_sub(consumed));
        if self.growth > GROWTH_BYTES_MAX {
            return Err(Failure::Invalid(format!(
                "made text {} bytes longer, more than {GROWTH_BYTES_MAX}",
                self.growth
            )));
        }
        self.waited = (left > 0).then_some((waited, now));
        let settled: String = self.held.drain(..consumed).collect();
        if edit.stop {
            self.held.clear();
        }
        Ok(edit.emit.unwrap_or(settled))
    }

    /// What is held back, unchanged: its guest is left out.
    pub fn flush(&mut self) -> String {
        self.waited = None;
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn edit(consumed: u32, emit: Option<&str>) -> Edit {
        Edit { consumed, emit: emit.map(str::to_owned), stop: false }
    }

    /// What is said of these edits of `text` where it ends, or not.
    fn settle(text: &str, edit: Edit, end: bool) -> Result<String, Failure> {
        let mut window = Window::default();
        window.push(text);
        window.settle(edit, end, &Budgets::default(), Instant::now())
    }

    #[test]
    fn what_is_settled_is_emitted_and_the_rest_comes_again() {
        let (mut window, budgets, now) = (Window::default(), Budgets::default(), Instant::now());
        assert_eq!(window.push("añb"), "añb");
        assert_eq!(window.settle(edit(3, None), false, &budgets, now).unwrap(), "añ");
        assert_eq!(window.push("c"), "bc");
        assert_eq!(window.settle(edit(2, Some("x")), true, &budgets, now).unwrap(), "x");
        assert_eq!(window.push(""), "");
    }

    #[test]
    fn what_no_edit_may_say_is_a_failure() {
        assert!(settle("añb", edit(2, None), false).unwrap_err().to_string().contains("middle of a character"));
        assert!(settle("ab", edit(3, None), false).unwrap_err().to_string().contains("3 bytes of a window of 2"));
        assert!(settle("ab", edit(u32::MAX, None), true).is_err());
        assert!(settle("ab", edit(1, None), true).unwrap_err().to_string().contains("1 bytes at the end"));
        let long = "x".repeat(5000);
        assert!(settle(&long, edit(0, None), false).unwrap_err().to_string().contains("more than its 4096"));
        assert_eq!(settle("ab", Edit { stop: true, ..edit(1, None) }, true).unwrap(), "a", "the rest is not wanted");
    }

    #[test]
    fn nothing_is_held_back_for_ever_and_pauses_of_others_do_not_count() {
        let (mut window, budgets, start) = (Window::default(), Budgets::default(), Instant::now());
        window.push("ab");
        let second = Duration::from_secs(1);
        let mut hold = |after: Duration| window.settle(edit(0, None), false, &budgets, start + after);
        hold(Duration::ZERO).unwrap();
        hold(600 * second).unwrap();
        for n in 1..30 {
            hold((600 + n) * second).unwrap();
        }
        assert!(hold(630 * second).unwrap_err().to_string().contains("30000 ms"));
        assert_eq!(
            window.settle(edit(1, None), false, &budgets, start + 631 * second).unwrap(),
            "a",
            "what moves is not held"
        );
        assert_eq!(window.flush(), "b");
    }

    #[test]
    fn what_is_said_grows_within_a_bound() {
        let (mut window, budgets, now) = (Window::default(), Budgets::default(), Instant::now());
        let big = "x".repeat(GROWTH_BYTES_MAX);
        window.push("abc");
        assert_eq!(window.settle(edit(1, Some(&big)), false, &budgets, now).unwrap().len(), big.len());
        assert_eq!(window.settle(edit(1, Some("yy")), false, &budgets, now).unwrap(), "yy");
        assert!(
            window.settle(edit(1, Some("yy")), false, &budgets, now).unwrap_err().to_string().contains("bytes longer")
        );
    }
}
