//! One sequence's way from prompt to end: which rows are still to be computed, and when it is over.
//!
//! **Invariant:** holds no tensors, no blocks and no channel. Rows below `computed` have their keys and values in the
//! KV blocks; a token may be sampled only when all rows are computed.

use protocol::answer::FinishReason;
use std::ops::Range;

/// Tokens so far and how many of them have been computed.
#[derive(Clone, Debug)]
pub struct Sequence {
    tokens: Vec<u32>,
    prompt: usize,
    computed: usize,
    /// Tokens in all, prompt included, at which it ends.
    limit: usize,
    /// Tokens that end it.
    ends: Vec<u32>,
}

/// What a sampled token means for its sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Send it and go on.
    Continue,
    /// Send it; it was the last.
    Last(FinishReason),
    /// An end token: do not send it.
    End,
}

impl Sequence {
    /// A sequence that has computed nothing. `prompt` is not empty; with `max_tokens` 0 it ends where a token would be sampled.
    pub fn new(prompt: Vec<u32>, max_tokens: usize, ends: Vec<u32>) -> Self {
        debug_assert!(!prompt.is_empty(), "checked before submission");
        let (length, limit) = (prompt.len(), prompt.len() + max_tokens);
        let sequence = Self { tokens: prompt, prompt: length, computed: 0, limit, ends };
        sequence.check_invariants();
        sequence
    }

    /// What was generated of it before, elsewhere.
    pub fn goes_on(mut self, generated: &[u32]) -> Self {
        debug_assert!(self.computed == 0 && generated.len() <= self.left(), "checked before submission");
        self.tokens.extend_from_slice(generated);
        self.check_invariants();
        self
    }

    /// Tokens of the prompt.
    pub fn prompt(&self) -> usize {
        self.prompt
    }

    /// All tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Rows to be computed before the next token.
    pub fn pending(&self) -> Range<usize> {
        self.computed..self.tokens.len()
    }

    /// Notes that the next `rows` have been computed; true where a token is to be sampled now.
    pub fn advance(&mut self, rows: usize) -> bool {
        self.computed += rows;
        self.check_invariants();
        self.computed == self.tokens.len()
    }

    /// Forgets what has been computed but the first `kept` rows: its blocks are gone, or others hold these rows for it.
    pub fn rewind(&mut self, kept: usize) {
        self.computed = kept;
        self.check_invariants();
        debug_assert!(kept < self.tokens.len(), "the last row is computed anew, for its logits");
    }

    /// Rows that are computed.
    pub fn computed(&self) -> usize {
        self.computed
    }

    /// Tokens that may still come.
    pub fn left(&self) -> usize {
        self.limit - self.tokens.len()
    }

    /// Tokens that it has, and the next where one may come: what its blocks have to reach.
    pub fn reach(&self) -> usize {
        (self.tokens.len() + 1).min(self.limit)
    }

    /// Appends a sampled token.
    pub fn push(&mut self, id: u32) -> Step {
        debug_assert_eq!(self.computed, self.tokens.len(), "a token is sampled from computed rows");
        if self.ends.contains(&id) {
            return Step::End;
        }
        self.tokens.push(id);
        self.check_invariants();
        match self.tokens.len() == self.limit {
            true => Step::Last(FinishReason::Length),
            false => Step::Continue,
        }
    }

    fn check_invariants(&self) {
        debug_assert!(self.computed <= self.tokens.len() && self.tokens.len() <= self.limit);
        debug_assert!(0 < self.prompt && self.prompt <= self.tokens.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_read_in_chunks_and_then_one_token_at_a_time() {
        let mut s = Sequence::new(vec![5, 6, 7], 2, vec![0]);
        assert_eq!(s.pending(), 0..3);
        assert!(!s.advance(2));
        assert!(s.advance(1));
        assert_eq!(s.push(9), Step::Continue);
        assert_eq!(s.pending(), 3..4);
        assert!(s.advance(1));
        assert_eq!(s.push(9), Step::Last(FinishReason::Length));
        assert_eq!(s.tokens(), [5, 6, 7, 9, 9]);
    }

    #[test]
    fn an_end_token_ends_and_is_not_kept_unless_ignored() {
        let mut s = Sequence::new(vec![5], 9, vec![0, 1]);
        s.advance(1);
        assert_eq!((s.push(1), s.tokens()), (Step::End, &[5][..]));
        let mut s = Sequence::new(vec![5], 9, vec![]);
        s.advance(1);
        assert_eq!((s.push(1), s.tokens()), (Step::Continue, &[5, 1][..]));
    }
}
