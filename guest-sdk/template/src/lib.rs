//! A guest to begin with: what the model says in a word, it says LOUDLY where that word is on a list.
//!
//! A word may come in pieces, so the last one is held back until something that is no letter follows.

use guest_sdk::{Edit, Rejection, TextHook, host};

/// One for each request.
#[derive(Default)]
struct Loud {
    /// The words of the manifest, read at the first text.
    words: Option<Vec<String>>,
}

impl TextHook for Loud {
    fn text(&mut self, window: &str, end: bool) -> Result<Edit, Rejection> {
        let words = self.words.get_or_insert_with(|| {
            host::config("words").unwrap_or_default().split(' ').map(str::to_owned).collect()
        });
        let whole = if end { window.len() } else { end_of_words(window) };
        let mut emit = String::with_capacity(whole);
        for word in window[..whole].split_inclusive(|c: char| !c.is_alphabetic()) {
            let letters = word.trim_end_matches(|c: char| !c.is_alphabetic());
            match words.iter().any(|loud| loud == letters) {
                true => emit += &word.to_uppercase(),
                false => emit += word,
            }
        }
        Ok(Edit::replace(whole, emit))
    }
}

/// Where the last word that may still grow begins.
fn end_of_words(window: &str) -> usize {
    window.char_indices().rev().find(|(_, c)| !c.is_alphabetic()).map_or(0, |(at, c)| at + c.len_utf8())
}

guest_sdk::export!(Loud: text);
