//! A vocabulary and its merges as they are mapped: nothing is parsed, a search reads where it lands. Little-endian, offsets from
//! the start:
//!
//! ```text
//!  0   4  ids          one more than the largest
//!  4   4  tokens
//!  8   4  token slots  a power of two, more than there are tokens
//! 12   4  merge slots  a power of two, more than there are merges
//! 16   8  text bytes
//! 24   8  zero
//! 32      spans        for each id: start and end of its token in the text (4 + 4); start FFFFFFFF: no token has the id
//!         by token     for each slot an id (4); FFFFFFFF: empty
//!         merges       for each slot left, right, rank, what they become (4 × 4); left FFFFFFFF: empty
//!         text         all tokens, UTF-8; it ends with the table
//! ```
//! A token's first slot is XXH3-64 of its bytes, a pair's the upper half of a product ([`pair_hash`]), both modulo the slots; what is
//! taken leads to the next slot, and behind the last comes the first.
//!
//! **Invariant:** of foreign bytes a search finds nothing or something wrong, but it ends, and reads nothing outside.

use super::{PairMap, vocabulary::Vocabulary};
use bytes::Bytes;
use std::ops::Range;
use twox_hash::XxHash3_64;

const HEADER: usize = 32;
const SPAN: usize = 8;
const MERGE: usize = 16;
const EMPTY: u32 = u32::MAX;
/// One more than the largest id there may be.
const IDS_MAX: usize = super::vocabulary::ID_MAX as usize + 1;

/// The tables, and where in them what is.
pub(in crate::tokenizer) struct Tables {
    bytes: Bytes,
    tokens: usize,
    spans: Range<usize>,
    by_token: Range<usize>,
    merges: Range<usize>,
    text: Range<usize>,
}

impl Tables {
    /// The tables in `bytes`, all of which they must be.
    ///
    /// # Errors
    /// What is wrong with them, and where.
    pub fn new(bytes: Bytes) -> Result<Self, String> {
        let header: &[u8; HEADER] = bytes.first_chunk().ok_or("the tables have no header")?;
        let number =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
        let (ids, tokens, token_slots, merge_slots) = (number(0), number(4), number(8), number(12));
        let text_bytes = (number(20) << 32) + number(16);
        for (field, slots) in [("token slots", token_slots), ("merge slots", merge_slots)] {
            if !slots.is_power_of_two() {
                return Err(format!("{slots} {field}, which is no power of two"));
            }
        }
        if ids > IDS_MAX || tokens > ids {
            return Err(format!("{tokens} tokens of {ids} ids, {IDS_MAX} at most"));
        }
        let mut end = HEADER;
        let mut next = |bytes: usize| {
            let start = end;
            end = start.checked_add(bytes)?;
            Some(start..end)
        };
        let places =
            [ids.checked_mul(SPAN), token_slots.checked_mul(4), merge_slots.checked_mul(MERGE), Some(text_bytes)]
                .map(|bytes| bytes.and_then(&mut next));
        let [Some(spans), Some(by_token), Some(merges), Some(text)] = places else {
            return Err("the tables are larger than any memory".into());
        };
        if text.end != bytes.len() {
            return Err(format!("the tables have {} bytes, where {} are needed", bytes.len(), text.end));
        }
        Ok(Self { bytes, tokens, spans, by_token, merges, text })
    }

    /// The same content as tables.
    pub(super) fn of(vocabulary: &Vocabulary, merges: &PairMap) -> Result<Self, String> {
        let mut spans = vec![[EMPTY; 2]; vocabulary.ids()];
        let mut by_token = vec![EMPTY; slots(vocabulary.len())];
        let mut text = String::new();
        for (id, token) in vocabulary.iter() {
            let start = text.len();
            text.push_str(token);
            let offset = |at: usize| u32::try_from(at).ok().filter(|at| *at != EMPTY).ok_or("4 GiB of tokens");
            spans[id as usize] = [offset(start)?, offset(text.len())?];
            put(&mut by_token, XxHash3_64::oneshot(token.as_bytes()), id, |slot| *slot == EMPTY);
        }
        let mut pairs = vec![[EMPTY; 4]; slots(merges.len())];
        // In the order of their ranks, so that the same merges are the same bytes.
        let mut ranked: Vec<[u32; 4]> = merges.iter().map(|(&(a, b), &(rank, made))| [a, b, rank, made]).collect();
        ranked.sort_unstable_by_key(|merge| merge[2]);
        for merge in ranked {
            put(&mut pairs, pair_hash(merge[0], merge[1]), merge, |slot| slot[0] == EMPTY);
        }
        let mut bytes = Vec::new();
        let header = [spans.len(), vocabulary.len(), by_token.len(), pairs.len(), text.len(), 0, 0, 0];
        let words = header.into_iter().map(|number| number as u32).chain(spans.into_iter().flatten());
        let words = words.chain(by_token).chain(pairs.into_iter().flatten());
        words.for_each(|word| bytes.extend_from_slice(&word.to_le_bytes()));
        bytes.extend_from_slice(text.as_bytes());
        Self::new(bytes.into())
    }

    /// As they are stored.
    pub fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The id of a token.
    pub fn id(&self, token: &str) -> Option<u32> {
        let slots = self.part::<4>(&self.by_token);
        for slot in probe(XxHash3_64::oneshot(token.as_bytes()), slots.len()) {
            let id = u32::from_le_bytes(slots[slot]);
            if id == EMPTY {
                return None;
            }
            if self.token_bytes(id) == Some(token.as_bytes()) {
                return Some(id);
            }
        }
        None
    }

    /// The token of an id.
    pub fn token(&self, id: u32) -> Option<&str> {
        std::str::from_utf8(self.token_bytes(id)?).ok()
    }

    fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        let [start, end] = words(self.part::<SPAN>(&self.spans).get(id as usize)?);
        self.bytes[self.text.clone()].get(start as usize..end as usize)
    }

    /// The rank of the merge of two tokens, and what they become.
    pub fn merge(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let slots = self.part::<MERGE>(&self.merges);
        for slot in probe(pair_hash(left, right), slots.len()) {
            let [a, b, rank, made] = words(&slots[slot]);
            if (a, b) == (left, right) {
                return Some((rank, made));
            }
            if a == EMPTY {
                return None;
            }
        }
        None
    }

    /// Tokens.
    pub fn len(&self) -> usize {
        self.tokens
    }

    /// One more than the largest id.
    pub fn ids(&self) -> usize {
        self.spans.len() / SPAN
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        (0..self.ids() as u32).filter_map(|id| Some((id, self.token(id)?)))
    }

    fn part<const N: usize>(&self, range: &Range<usize>) -> &[[u8; N]] {
        self.bytes[range.clone()].as_chunks::<N>().0
    }
}

/// Where to look, one after the other; each slot once.
fn probe(hash: u64, slots: usize) -> impl Iterator<Item = usize> {
    (0..slots).map(move |step| (hash as usize).wrapping_add(step) & (slots - 1))
}

/// Puts what is new into the first slot that is free.
fn put<T>(slots: &mut [T], hash: u64, new: T, is_free: impl Fn(&T) -> bool) {
    let at = probe(hash, slots.len()).find(|at| is_free(&slots[*at])).expect("there are more slots than entries");
    slots[at] = new;
}

/// At most half of them are taken: most searches for a pair find none, and end at the first free slot.
fn slots(entries: usize) -> usize {
    (2 * entries + 1).next_power_of_two()
}

/// The upper half of the pair times 2^64 over the golden ratio.
fn pair_hash(left: u32, right: u32) -> u64 {
    (u64::from(left) << 32 | u64::from(right)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32
}

fn words<const N: usize, const W: usize>(bytes: &[u8; N]) -> [u32; W] {
    let words = bytes.as_chunks::<4>().0;
    std::array::from_fn(|i| u32::from_le_bytes(words[i]))
}
