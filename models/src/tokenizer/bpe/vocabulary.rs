//! Token ↔ id while a `tokenizer.json` is read: all tokens in one string, ids in one table.

use hashbrown::{DefaultHashBuilder, HashTable, hash_table::Entry};
use std::hash::BuildHasher;

/// Largest id; far above any vocabulary known.
pub(super) const ID_MAX: u32 = 1 << 22;
/// Room made at first: small vocabularies waste little of it, and large ones grow from here.
const TOKENS_LIKELY: usize = 1 << 16;

/// Each id's token, and each token's id. Ids may have gaps; tokens and ids are unique.
pub(super) struct Vocabulary {
    text: String,
    /// By id; empty in a gap.
    spans: Vec<Option<Span>>,
    /// The spans again, so that a search reads no more than the table and the text.
    table: HashTable<(Span, u32)>,
    hasher: DefaultHashBuilder,
}

/// Where a token lies in the text.
#[derive(Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
}

impl Span {
    #[inline]
    fn of(self, text: &str) -> &[u8] {
        &text.as_bytes()[self.start as usize..self.end as usize]
    }
}

impl Default for Vocabulary {
    fn default() -> Self {
        Self {
            text: String::with_capacity(8 * TOKENS_LIKELY),
            spans: Vec::with_capacity(TOKENS_LIKELY),
            table: HashTable::with_capacity(TOKENS_LIKELY),
            hasher: DefaultHashBuilder::default(),
        }
    }
}

impl Vocabulary {
    /// Adds a token, or says why not.
    pub fn insert(&mut self, token: &str, id: u32) -> Result<(), String> {
        if id > ID_MAX {
            return Err(format!("{token:?} has the id {id}, above {ID_MAX}"));
        }
        let start = u32::try_from(self.text.len()).ok();
        let end = u32::try_from(self.text.len() + token.len()).ok();
        let (Some(start), Some(end)) = (start, end) else { return Err("more than 4 GiB of tokens".into()) };
        let span = Span { start, end };
        if self.spans.len() <= id as usize {
            self.spans.resize(id as usize + 1, None);
        }
        if self.spans[id as usize].is_some() {
            return Err(format!("{token:?} has the id {id}, which another token has"));
        }
        let Self { text, table, hasher, .. } = self;
        let same = |(span, _): &(Span, u32)| span.of(text) == token.as_bytes();
        let hash = |(span, _): &(Span, u32)| hasher.hash_one(span.of(text));
        match table.entry(hasher.hash_one(token.as_bytes()), same, hash) {
            Entry::Occupied(_) => return Err(format!("{token:?} appears twice")),
            Entry::Vacant(place) => place.insert((span, id)),
        };
        self.text.push_str(token);
        self.spans[id as usize] = Some(span);
        Ok(())
    }

    pub fn id(&self, token: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(token.as_bytes());
        let found = self.table.find(hash, |(span, _)| span.of(&self.text) == token.as_bytes());
        found.map(|(_, id)| *id)
    }

    pub fn token(&self, id: u32) -> Option<&str> {
        let span = (*self.spans.get(id as usize)?)?;
        Some(&self.text[span.start as usize..span.end as usize])
    }

    /// Tokens.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// One more than the largest id.
    pub fn ids(&self) -> usize {
        self.spans.len()
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &str)> {
        (0..self.spans.len() as u32).filter_map(|id| Some((id, self.token(id)?)))
    }
}
