//! Speculation without a second model: what followed the same few words before is likely to follow them again (prompt lookup,
//! Saxena 2023; n-gram speculation as in Leviathan et al. 2023, arXiv:2211.17192, with a lookup for a draft model).
//!
//! **Invariant:** a guess only ever costs or saves time. Each guessed token is sampled for as any other, with the same bits of
//! logits and the same random number, and is kept only where it is what was sampled: the output does not depend on guesses.

/// Tokens that must have occurred before in this order.
const MATCH: usize = 3;
/// Most guesses at a time.
pub const GUESSES_MAX: usize = 7;
/// Most steps without guesses after some that were wrong.
const PAUSE_MAX: u32 = 64;

/// Guesses for one sequence, more of them the more come true.
#[derive(Clone, Debug)]
pub struct Drafter {
    /// Guesses at a time; 0: never any.
    length: usize,
    /// Steps to go without guesses.
    pause: u32,
    /// The next pause.
    penalty: u32,
}

impl Drafter {
    pub fn new(enabled: bool) -> Self {
        Self { length: if enabled { 3 } else { 0 }, pause: 0, penalty: 2 }
    }

    /// At most `most` tokens that may follow `tokens`.
    pub fn guess(&mut self, tokens: &[u32], most: usize) -> Vec<u32> {
        if self.pause > 0 {
            self.pause -= 1;
            return Vec::new();
        }
        let most = most.min(self.length);
        let Some((before, last)) = tokens.split_last_chunk::<MATCH>() else { return Vec::new() };
        if most == 0 {
            return Vec::new();
        }
        // The latest occurrence; it may overlap the end, as in a text that repeats itself.
        let Some(at) = (0..before.len()).rev().find(|&at| tokens[at..at + MATCH] == *last) else { return Vec::new() };
        let from = at + MATCH;
        tokens[from..tokens.len().min(from + most)].to_vec()
    }

    /// So many of the last guesses came true.
    pub fn judge(&mut self, guessed: usize, right: usize) {
        if right == guessed {
            self.length = (self.length * 2).min(GUESSES_MAX);
            self.penalty = 2;
        } else if right == 0 {
            self.length = 2;
            self.pause = self.penalty;
            self.penalty = (self.penalty * 2).min(PAUSE_MAX);
        } else {
            self.length = right + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_what_followed_the_last_time() {
        let guess = |tokens: &[u32], most| Drafter::new(true).guess(tokens, most);
        assert_eq!(guess(&[1, 2, 3, 7, 8, 9, 5, 1, 2, 3], 7), [7, 8, 9]);
        assert_eq!(guess(&[1, 2, 3, 7, 1, 2, 3, 8, 8, 1, 2, 3], 2), [8, 8]);
        assert_eq!(guess(&[4, 4, 4, 4, 4], 7), [4], "the text repeats one word");
        assert!(guess(&[1, 2, 3, 4, 5], 7).is_empty());
        assert!(guess(&[1, 2], 7).is_empty() && guess(&[1, 2, 3, 1, 2, 3], 0).is_empty());
        assert!(Drafter::new(false).guess(&[1, 2, 3, 9, 1, 2, 3], 7).is_empty());
    }

    #[test]
    fn wrong_guesses_make_it_pause_and_right_ones_make_it_bolder() {
        let tokens: Vec<u32> = (0..20).chain(0..3).collect();
        let mut drafter = Drafter::new(true);
        assert_eq!(drafter.guess(&tokens, 99).len(), 3);
        drafter.judge(3, 3);
        assert_eq!(drafter.guess(&tokens, 99).len(), 6);
        drafter.judge(6, 0);
        assert!(drafter.guess(&tokens, 99).is_empty() && drafter.guess(&tokens, 99).is_empty());
        assert_eq!(drafter.guess(&tokens, 99).len(), 2);
    }
}
