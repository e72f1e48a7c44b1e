//! Text → ids where a vocabulary is of bytes and the way of cutting is known: straight from the bytes of each piece. Added tokens are found and
//! text is normalised by the tokenizers crate. **Contract:** the ids are those that its own way gives, as far as [`super::cuts`] promises that.

use super::{
    bpe::{Bpe, OfBytes, Pairs},
    cuts::Cuts,
    file::Inner,
    words::Words,
};
use tokenizers::{Encoding, OffsetReferential, OffsetType, Result};

/// What stands for a text where it is asked what comes around it.
const TEXT: u32 = u32::MAX;

/// See the module.
pub(super) struct Direct {
    cuts: Cuts,
    of_bytes: Box<OfBytes>,
    /// What the post-processor puts before a text.
    before: Vec<u32>,
    /// And behind it.
    after: Vec<u32>,
}

impl Direct {
    /// `None` where the model is of another kind.
    pub fn of(inner: &Inner, cuts: Cuts) -> Option<Self> {
        let of_bytes = bpe(inner)?.of_bytes();
        let text: Encoding = std::iter::once((TEXT, String::new(), (0, 0), None, 0)).collect();
        let around = inner.post_process(text, None, true).ok()?;
        let mut parts = around.get_ids().split(|id| *id == TEXT);
        match [parts.next(), parts.next(), parts.next()] {
            [Some(before), Some(after), None] => {
                Some(Self { cuts, of_bytes, before: before.to_vec(), after: after.to_vec() })
            }
            _ => None,
        }
    }

    /// # Errors
    /// A character has no token, nor has what should stand for it.
    pub fn encode(&self, inner: &Inner, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let bpe = bpe(inner).ok_or("the model is no byte-pair encoding")?;
        let mut ids = if add_special { self.before.clone() } else { Vec::new() };
        let mut pairs = Pairs::default();
        let found = inner.get_added_vocabulary().extract_and_normalize(inner.get_normalizer(), text);
        for (text, _, added) in found.get_splits(OffsetReferential::Normalized, OffsetType::None) {
            match added {
                Some(tokens) => ids.extend(tokens.iter().map(|token| token.id)),
                None => {
                    self.cuts.each(text, |piece| bpe.encode(piece.as_bytes(), &self.of_bytes, &mut pairs, &mut ids))?
                }
            }
        }
        if add_special {
            ids.extend_from_slice(&self.after);
        }
        Ok(ids)
    }
}

fn bpe(inner: &Inner) -> Option<&Bpe> {
    match inner.get_model() {
        Words::Bpe(bpe) => Some(bpe),
        Words::Other(_) => None,
    }
}
