//! Merging the characters of a word, the pair of least rank first: with a heap, so that a word of any length is n log n.

use super::Tables;
use std::{cmp::Reverse, collections::BinaryHeap};

const NONE: usize = usize::MAX;

/// Tokens in a list whose links outlive merges.
pub(super) struct Word {
    symbols: Vec<Symbol>,
}

struct Symbol {
    id: u32,
    /// What it covers, in bytes of text; 0 once it is part of its left neighbour.
    bytes: usize,
    left: usize,
    right: usize,
}

/// Ordered by rank, then from left to right.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    at: usize,
    id: u32,
}

impl Word {
    pub fn with_capacity(symbols: usize) -> Self {
        Self { symbols: Vec::with_capacity(symbols) }
    }

    pub fn push(&mut self, id: u32, bytes: usize) {
        let at = self.symbols.len();
        if let Some(last) = self.symbols.last_mut() {
            last.right = at;
        }
        self.symbols.push(Symbol { id, bytes, left: at.checked_sub(1).unwrap_or(NONE), right: NONE });
    }

    /// Merges until no pair is left that the table knows.
    pub fn merge(&mut self, merges: &Tables) {
        let mut candidates: BinaryHeap<Reverse<Candidate>> =
            (0..self.symbols.len()).filter_map(|at| self.candidate(merges, at)).map(Reverse).collect();
        while let Some(Reverse(candidate)) = candidates.pop() {
            // Either side may have changed since the pair was seen.
            if self.candidate(merges, candidate.at).is_none_or(|now| now.id != candidate.id) {
                continue;
            }
            let at = candidate.at;
            self.join(at, candidate.id);
            let left = self.symbols[at].left;
            candidates.extend([left, at].into_iter().filter_map(|at| self.candidate(merges, at)).map(Reverse));
        }
    }

    /// The merge of the symbol at `at` with its right neighbour.
    fn candidate(&self, merges: &Tables, at: usize) -> Option<Candidate> {
        let symbol = self.symbols.get(at).filter(|symbol| symbol.bytes > 0)?;
        let right = self.symbols.get(symbol.right)?;
        merges.merge(symbol.id, right.id).map(|(rank, id)| Candidate { rank, at, id })
    }

    fn join(&mut self, at: usize, id: u32) {
        let gone = self.symbols[at].right;
        let (bytes, right) = (self.symbols[gone].bytes, self.symbols[gone].right);
        self.symbols[gone].bytes = 0;
        let symbol = &mut self.symbols[at];
        (symbol.id, symbol.bytes, symbol.right) = (id, symbol.bytes + bytes, right);
        if let Some(next) = self.symbols.get_mut(right) {
            next.left = at;
        }
    }

    /// What is left: ids, and the bytes each covers.
    pub fn tokens(&self) -> impl Iterator<Item = (u32, usize)> {
        self.symbols.iter().filter(|symbol| symbol.bytes > 0).map(|symbol| (symbol.id, symbol.bytes))
    }
}
