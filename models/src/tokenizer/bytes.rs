//! What bytes a token stands for.

use super::file::Inner;
use std::{collections::HashMap, sync::LazyLock};
use tokenizers::DecoderWrapper;

/// How a vocabulary spells bytes.
pub(super) enum Spelling {
    /// GPT-2's: one printable character for each byte.
    ByteLevel,
    /// Text with a mark for spaces, and `<0xHH>` for bytes that have no token (SentencePiece's).
    Pieces {
        /// A token whose own text survives at the start of a sequence: what follows it is decoded as in the middle.
        anchor: Option<Anchor>,
    },
}

/// See [`Spelling::Pieces`].
pub(super) struct Anchor {
    id: u32,
    text: String,
}

/// Plain letters and digits first, then whatever the vocabulary begins with.
const ANCHOR_CANDIDATES: [&str; 4] = ["a", "e", "1", "."];
const ANCHOR_IDS_TRIED: u32 = 1024;

impl Spelling {
    pub fn of(inner: &Inner) -> Self {
        if inner.get_decoder().is_some_and(is_byte_level) {
            return Self::ByteLevel;
        }
        let likely = ANCHOR_CANDIDATES.iter().filter_map(|token| inner.token_to_id(token));
        Self::Pieces { anchor: likely.chain(0..ANCHOR_IDS_TRIED).find_map(|id| Anchor::of(inner, id)) }
    }

    pub fn token_bytes(&self, inner: &Inner, id: u32) -> Vec<u8> {
        let Some(token) = inner.id_to_token(id) else { return Vec::new() };
        match self {
            Self::ByteLevel => byte_level(&token),
            Self::Pieces { .. } => {
                let text = self.middle(inner, &[id], false);
                match byte_token(&token) {
                    Some(byte) if text != token => vec![byte],
                    _ => text.into_bytes(),
                }
            }
        }
    }

    /// The text of `ids` where something came before them.
    pub fn middle(&self, inner: &Inner, ids: &[u32], skip_special: bool) -> String {
        // Decoders of text fail on nothing but their own configuration, which `Tokenizer::from_json` has tried.
        let decode = |ids: &[u32]| inner.decode(ids, skip_special).unwrap_or_default();
        if let Self::Pieces { anchor: Some(anchor) } = self {
            let mut anchored = Vec::with_capacity(ids.len() + 1);
            anchored.push(anchor.id);
            anchored.extend_from_slice(ids);
            if let Some(text) = decode(&anchored).strip_prefix(&anchor.text) {
                return text.to_owned();
            }
        }
        decode(ids)
    }
}

impl Anchor {
    fn of(inner: &Inner, id: u32) -> Option<Self> {
        let text = inner.decode(&[id], true).ok()?;
        let twice = inner.decode(&[id, id], true).ok()?;
        let token = inner.id_to_token(id)?;
        let survives = !text.is_empty() && twice.len() > text.len() && twice.starts_with(&text);
        (survives && byte_token(&token).is_none()).then_some(Self { id, text })
    }
}

fn is_byte_level(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteLevel(_) => true,
        DecoderWrapper::Sequence(sequence) => {
            let each = sequence.get_decoders();
            each.iter().any(is_byte_level)
                && each.iter().all(|step| is_byte_level(step) || matches!(step, DecoderWrapper::Fuse(_)))
        }
        _ => false,
    }
}

/// The byte of a token spelt `<0xHH>`.
pub(super) fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// The bytes of a token spelt GPT-2's way; one that is not (an added token) stands for itself.
fn byte_level(token: &str) -> Vec<u8> {
    let bytes: Option<Vec<u8>> = token.chars().map(|c| BYTE_OF.get(&c).copied()).collect();
    bytes.unwrap_or_else(|| token.as_bytes().to_vec())
}

/// The byte that a character stands for.
static BYTE_OF: LazyLock<HashMap<char, u8>> = LazyLock::new(|| (0..=255).map(|byte| (spelt(byte), byte)).collect());

/// The character that stands for a byte, by GPT-2's table: printable Latin-1 for itself, the other bytes, in order, for those from U+0100 on.
pub(super) fn spelt(byte: u8) -> char {
    let substitute = |number: u8| char::from_u32(0x100 + u32::from(number)).expect("far below the surrogates");
    match byte {
        0..=0x20 => substitute(byte),
        0x7F..=0xA0 => substitute(byte - 0x7F + 0x21),
        0xAD => substitute(0x43),
        _ => char::from(byte),
    }
}
