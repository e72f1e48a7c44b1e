//! Incremental decoding. **Invariant:** the pieces of a stream, one after the other, are the decoding of all its ids.
//!
//! Nothing is held back but what a later token may still change: a character whose bytes are not all there.

use super::Tokenizer;
use std::sync::Arc;

/// The text of a sequence as its tokens come.
pub struct TokenStream {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    held: Held,
}

enum Held {
    /// The beginning of a character.
    Bytes(Vec<u8>),
    /// A run of byte tokens: whether they are characters shows when the run ends.
    Pieces { run: Vec<u32>, started: bool },
}

impl TokenStream {
    /// `started`: something came before, as the prompt does before a completion, so the first token keeps its space.
    pub(super) fn new(tokenizer: Arc<Tokenizer>, skip_special: bool, started: bool) -> Self {
        let held =
            if tokenizer.is_byte_level() { Held::Bytes(Vec::new()) } else { Held::Pieces { run: Vec::new(), started } };
        Self { tokenizer, skip_special, held }
    }

    /// Whose it is.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        &self.tokenizer
    }

    /// The text that `id` completes; often empty, never ending in part of a character.
    ///
    /// # Errors
    /// The decoder refuses the tokens.
    pub fn push(&mut self, id: u32) -> Result<String, crate::Error> {
        let Some(token) = self.tokenizer.shown(id, self.skip_special) else { return Ok(String::new()) };
        match &mut self.held {
            Held::Bytes(held) => {
                held.extend(self.tokenizer.token_bytes(id));
                Ok(take_characters(held))
            }
            Held::Pieces { run, .. } => {
                run.push(id);
                if super::bytes::byte_token(&token).is_some() { Ok(String::new()) } else { self.take_run() }
            }
        }
    }

    /// What is still held back, broken characters as U+FFFD.
    pub fn finish(&mut self) -> String {
        match &mut self.held {
            Held::Bytes(held) => String::from_utf8_lossy(&std::mem::take(held)).into_owned(),
            Held::Pieces { .. } => self.take_run().unwrap_or_default(),
        }
    }

    fn take_run(&mut self) -> Result<String, crate::Error> {
        let Held::Pieces { run, started } = &mut self.held else { return Ok(String::new()) };
        let ids = std::mem::take(run);
        if ids.is_empty() {
            return Ok(String::new());
        }
        // Only the first token of a sequence may lose its leading space.
        if std::mem::replace(started, true) {
            Ok(self.tokenizer.decode_middle(&ids, self.skip_special))
        } else {
            self.tokenizer.decode(&ids, self.skip_special)
        }
    }
}

/// Takes all that is decided: characters, and U+FFFD for bytes that nothing can complete any more.
fn take_characters(held: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut done = 0;
    for chunk in held.utf8_chunks() {
        text.push_str(chunk.valid());
        done += chunk.valid().len();
        let broken = chunk.invalid();
        let at_end = done + broken.len() == held.len();
        if broken.is_empty() || (at_end && may_continue(broken)) {
            break;
        }
        text.push(char::REPLACEMENT_CHARACTER);
        done += broken.len();
    }
    held.drain(..done);
    text
}

/// Whether `bytes` are the beginning of a character.
fn may_continue(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

#[cfg(test)]
mod tests {
    use super::take_characters;

    #[test]
    fn holds_back_what_may_still_become_a_character_and_no_more() {
        let mut held = "é".as_bytes()[..1].to_vec();
        assert_eq!(take_characters(&mut held), "");
        held.extend(&"é".as_bytes()[1..]);
        held.extend(&"🚀".as_bytes()[..3]);
        assert_eq!(take_characters(&mut held), "é");
        held.push(b'x');
        assert_eq!(take_characters(&mut held), "\u{fffd}x");
        assert!(held.is_empty());
    }
}
