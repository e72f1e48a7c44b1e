//! Stop strings in text that arrives in pieces. **Invariant:** the result does not depend on how the text was cut: the
//! match that is complete first wins, of those the longest, and text that may still become a match is held back.

/// Finds the first of some stop strings.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
}

/// Text that may be shown, and whether a stop string came after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Matched {
    /// Text before any possible match.
    pub text: String,
    /// A stop string is complete: nothing more will be shown.
    pub stopped: bool,
}

impl StopMatcher {
    /// None of `stops` is empty.
    pub fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new() }
    }

    /// Takes more text.
    pub fn push(&mut self, text: &str) -> Matched {
        self.held.push_str(text);
        match self.first_match() {
            Some(start) => {
                self.held.truncate(start);
                Matched { text: std::mem::take(&mut self.held), stopped: true }
            }
            None => {
                let rest = self.held.split_off(self.safe());
                Matched { text: std::mem::replace(&mut self.held, rest), stopped: false }
            }
        }
    }

    /// The text has ended: what is still held back.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Where the match starts that ends first.
    fn first_match(&self) -> Option<usize> {
        let found = |stop: &String| self.held.find(stop.as_str()).map(|start| (start + stop.len(), start));
        self.stops.iter().filter_map(found).min().map(|(_, start)| start)
    }

    /// How much of `held` cannot be the start of any stop string.
    fn safe(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest.saturating_sub(1));
        let starts = |at: &usize| {
            self.held.is_char_boundary(*at) && self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..]))
        };
        (from..self.held.len()).find(starts).unwrap_or(self.held.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Pushes the pieces; the text shown and whether it stopped.
    fn check(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops.iter().map(|s| s.to_string()).collect());
        let mut shown = String::new();
        for piece in pieces {
            let Matched { text, stopped } = matcher.push(piece);
            shown += &text;
            if stopped {
                return (shown, true);
            }
        }
        (shown + &matcher.finish(), false)
    }

    #[test]
    fn a_stop_string_is_found_across_pieces_and_false_starts_are_shown() {
        assert_eq!(check(&["END"], &["to the E", "N", "D of"]), ("to the ".into(), true));
        assert_eq!(check(&["END"], &["to the E", "NT"]), ("to the ENT".into(), false));
        assert_eq!(check(&["aab"], &["a", "a", "a", "b"]), ("a".into(), true));
        assert_eq!(check(&["abc", "b"], &["abc"]), ("a".into(), true));
        assert_eq!(check(&["né", "é!"], &["n", "é", "!"]), ("".into(), true));
        assert_eq!(check(&[], &["x", "y"]), ("xy".into(), false));
        assert_eq!(check(&["xyz"], &["xy"]), ("xy".into(), false), "what was held is shown at the end");
    }

    #[test]
    fn text_is_held_only_while_it_may_become_a_match() {
        let mut matcher = StopMatcher::new(vec!["\n\nUser".into()]);
        assert_eq!(matcher.push("one\n").text, "one");
        assert_eq!(matcher.push("two").text, "\ntwo");
    }

    proptest! {
        #[test]
        fn cutting_the_text_elsewhere_changes_nothing(
            text in "[abé]{0,40}", stops in proptest::collection::vec("[abé]{1,4}", 0..4), cuts in proptest::collection::vec(1usize..6, 1..40)
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let chars: Vec<String> = text.chars().map(String::from).collect();
            let mut pieces = Vec::new();
            let mut rest = chars.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break; }
                let (piece, more) = rest.split_at(rest.len().min(*cut));
                pieces.push(piece.concat());
                rest = more;
            }
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let singles: Vec<&str> = chars.iter().map(String::as_str).collect();
            let one = check(&stops, &singles);
            prop_assert_eq!(&check(&stops, &pieces), &one);
            prop_assert_eq!(one.1, stops.iter().any(|s| text.contains(s)));
            prop_assert!(stops.iter().all(|s| !one.0.contains(s)));
        }
    }
}
