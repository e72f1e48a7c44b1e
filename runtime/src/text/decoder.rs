//! One choice's text: tokens in, text that may be shown out.

use super::stop::{Matched, StopMatcher};
use crate::guests::Shared;
use models::{TokenStream, Tokenizer};
use protocol::{ApiError, ErrorKind};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Incremental detokenising, guests' edits and stop strings, in this order. **Invariant:** what comes out is whole characters, was seen by every
/// guest, and never contains a stop string.
pub struct Decoder {
    stream: TokenStream,
    guests: Option<Edited>,
    stops: StopMatcher,
    /// Characters decoded so far, held back ones included.
    chars: usize,
    /// A guest took so long for a text that others are not to wait for the next.
    is_slow: bool,
}

/// Guests, and what they have made of the text.
struct Edited {
    guests: Shared,
    /// As the model said it.
    raw: String,
    /// As they left it.
    edited: String,
    /// What of that is shown.
    shown: String,
    /// A stop string has ended it: what was still held back by then is nobody's.
    stopped: bool,
}

/// A guest's call takes some microseconds; one that takes longer than this is not waited for by others again.
const SLOW: Duration = Duration::from_micros(500);

impl Decoder {
    pub fn new(stream: TokenStream, guests: Option<Shared>, stops: Vec<String>) -> Self {
        let none = String::new;
        let guests = guests.map(|guests| Edited { guests, raw: none(), edited: none(), shown: none(), stopped: false });
        Self { stream, guests, stops: StopMatcher::new(stops), chars: 0, is_slow: false }
    }

    /// Where the next token's text starts, in characters.
    pub fn offset(&self) -> usize {
        self.chars
    }

    /// Its guests have taken long before: it is better asked where nobody else waits.
    pub fn is_slow(&self) -> bool {
        self.is_slow
    }

    /// Takes a token.
    ///
    /// # Errors
    /// It is none; or a guest refuses its text.
    pub fn push(&mut self, id: u32) -> Result<Matched, ApiError> {
        let text = self.stream.push(id).map_err(no_token)?;
        self.chars += text.chars().count();
        let matched = self.edit(&text, false)?;
        self.note(&matched);
        Ok(matched)
    }

    fn note(&mut self, matched: &Matched) {
        self.guests.iter_mut().for_each(|edited| edited.shown += &matched.text);
    }

    /// What is shown in all so far, where guests are asked, and whether it is what the model said but for stop strings.
    pub fn shown(&self) -> Option<(&str, bool)> {
        let is_as_said = |by: &Edited| by.raw == by.edited || by.stopped && by.raw.starts_with(&by.edited);
        self.guests.as_ref().map(|by| (by.shown.as_str(), is_as_said(by)))
    }

    /// Whose tokens come.
    pub fn tokenizer(&self) -> &Arc<Tokenizer> {
        self.stream.tokenizer()
    }

    fn edit(&mut self, text: &str, end: bool) -> Result<Matched, ApiError> {
        let Some(by) = &mut self.guests else { return Ok(self.stops.push(text)) };
        let begun = Instant::now();
        let edited = by.guests.with(|session| session.text(text, end));
        self.is_slow |= begun.elapsed() > SLOW;
        let edited = edited?;
        by.raw += text;
        by.edited += &edited.text;
        let mut matched = self.stops.push(&edited.text);
        by.stopped |= matched.stopped;
        if edited.stop && !matched.stopped {
            matched.text += &self.stops.finish();
            matched.stopped = true;
        }
        Ok(matched)
    }

    /// Takes a token of the prompt, whose text is shown whatever it is: no stop string ends there or begins.
    pub fn echo(&mut self, id: u32) -> Result<String, ApiError> {
        let text = self.stream.push(id).map_err(no_token)?;
        self.chars += text.chars().count();
        Ok(text)
    }

    /// The tokens have ended: what was held back.
    ///
    /// # Errors
    /// A guest refuses it.
    pub fn finish(&mut self) -> Result<Matched, ApiError> {
        let rest = self.stream.finish();
        let mut matched = self.edit(&rest, true)?;
        if !matched.stopped {
            matched.text += &self.stops.finish();
        }
        self.note(&matched);
        Ok(matched)
    }
}

fn no_token(error: models::Error) -> ApiError {
    ApiError::new(ErrorKind::Internal, error.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn tokenizer() -> Arc<Tokenizer> {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/llama3-tiny/tokenizer.json");
        Arc::new(Tokenizer::from_json(&std::fs::read(file).unwrap()).unwrap())
    }

    #[test]
    fn characters_split_over_tokens_are_held_back_until_they_are_whole() {
        let tokenizer = tokenizer();
        let text = "né 🙂🙃 €漢";
        let ids = tokenizer.encode(text, false).unwrap();
        assert!(ids.len() > text.chars().count(), "some character takes several tokens");
        let mut decoder = Decoder::new(tokenizer.stream(true), None, vec![]);
        let pieces: Vec<String> = ids.iter().map(|&id| decoder.push(id).unwrap().text).collect();
        assert!(pieces.iter().any(String::is_empty) && !pieces.iter().any(|p| p.contains('\u{fffd}')));
        assert_eq!(
            (pieces.concat() + &decoder.finish().unwrap().text, decoder.offset()),
            (text.into(), text.chars().count())
        );
    }

    #[test]
    fn an_unfinished_character_is_shown_broken_at_the_end_only() {
        let tokenizer = tokenizer();
        let ids = tokenizer.encode("🙂", false).unwrap();
        let mut decoder = Decoder::new(tokenizer.stream(true), None, vec![]);
        assert_eq!(decoder.push(ids[0]).unwrap().text, "");
        assert_eq!(decoder.finish().unwrap().text, "\u{fffd}");
    }

    #[test]
    fn a_stop_string_inside_split_characters_is_found() {
        let tokenizer = tokenizer();
        let mut decoder = Decoder::new(tokenizer.stream(true), None, vec!["🙃".into()]);
        let mut shown = String::new();
        for id in tokenizer.encode("a🙂🙃b", false).unwrap() {
            let Matched { text, stopped } = decoder.push(id).unwrap();
            shown += &text;
            if stopped {
                break;
            }
        }
        assert_eq!(shown, "a🙂");
    }
}
