//! Merging the tokens of a short piece of text, the pair of least rank first, the left one of equals: by looking at all of them, which for a word
//! costs less than a heap. Longer pieces go to [`Word`]. The memory is used again.

use super::{Tables, Word};

/// Pieces up to this many tokens are looked through.
const SHORT: usize = 32;
/// No merge.
const NEVER: u32 = u32::MAX;

/// A piece's tokens, and of each the merge with its right neighbour.
#[derive(Default)]
pub(in crate::tokenizer) struct Pairs {
    ids: Vec<u32>,
    /// Rank, and what they become.
    merges: Vec<(u32, u32)>,
}

impl Pairs {
    /// Takes a piece's tokens; false where one has none.
    pub fn fill(&mut self, tokens: impl Iterator<Item = Option<u32>>) -> bool {
        self.ids.clear();
        for token in tokens {
            let Some(id) = token else { return false };
            self.ids.push(id);
        }
        true
    }

    /// Adds to `out` what they are merged to.
    pub fn merge(&mut self, tables: &Tables, out: &mut Vec<u32>) {
        if self.ids.len() > SHORT {
            return self.merge_long(tables, out);
        }
        self.merges.clear();
        self.merges.extend(self.ids.windows(2).map(|pair| merge(tables, pair[0], pair[1])));
        while let Some((at, made)) = self.least() {
            self.ids[at] = made;
            self.ids.remove(at + 1);
            self.merges.remove(at);
            for at in [at.checked_sub(1), Some(at)].into_iter().flatten() {
                if let Some(next) = self.merges.get_mut(at) {
                    *next = merge(tables, self.ids[at], self.ids[at + 1]);
                }
            }
        }
        out.extend_from_slice(&self.ids);
    }

    /// Where the merge of least rank is, and what it makes.
    fn least(&self) -> Option<(usize, u32)> {
        let ranked = self.merges.iter().enumerate().filter(|(_, (rank, _))| *rank != NEVER);
        ranked.min_by_key(|(_, (rank, _))| *rank).map(|(at, (_, made))| (at, *made))
    }

    fn merge_long(&self, tables: &Tables, out: &mut Vec<u32>) {
        let mut word = Word::with_capacity(self.ids.len());
        self.ids.iter().for_each(|id| word.push(*id, 1));
        word.merge(tables);
        out.extend(word.tokens().map(|(id, _)| id));
    }
}

fn merge(tables: &Tables, left: u32, right: u32) -> (u32, u32) {
    tables.merge(left, right).unwrap_or((NEVER, 0))
}
