//! What a prompt begins with, as numbers, so that it can go where that has been computed before.
//!
//! **Invariant:** says nothing of a prompt but whether it begins as another one did, of the same tenant; costs one pass over its first 64 KiB.

use std::hash::{DefaultHasher, Hasher};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::slot::Prefixes;

/// Beginnings of so many bytes are told apart, of twice as many, and so on.
const SHORTEST: usize = 256;

/// The longest that is looked at.
const LONGEST: usize = 64 << 10;

/// What is said to the model, as it was written: a conversation that goes on is written as before, and more.
#[derive(Deserialize)]
struct Said<'a> {
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
}

/// The hashes of the beginnings of what this body says, the shortest first; none of what is short, or of no prompt.
pub fn of(body: &[u8], scope: Option<u128>) -> Prefixes {
    let Ok(Said { messages, prompt }) = serde_json::from_slice(body) else { return Vec::new() };
    let Some(said) = messages.or(prompt) else { return Vec::new() };
    let said = said.get().as_bytes();
    let mut hasher = DefaultHasher::new();
    hasher.write_u128(scope.unwrap_or_default());
    let (mut prefixes, mut done, mut next) = (Vec::new(), 0, SHORTEST);
    while next <= said.len().min(LONGEST) {
        hasher.write(&said[done..next]);
        prefixes.push(hasher.finish());
        (done, next) = (next, next * 2);
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn chat(turns: &[&str]) -> Vec<u8> {
        let messages: Vec<_> = turns.iter().map(|text| json!({"role": "user", "content": text})).collect();
        json!({"model": "m", "temperature": turns.len(), "messages": messages}).to_string().into_bytes()
    }

    #[test]
    fn a_conversation_that_goes_on_begins_as_before() {
        let (long, other) = ("once upon a time ".repeat(100), "twice upon a time ".repeat(100));
        let first = of(&chat(&[&long]), None);
        let second = of(&chat(&[&long, "and then?"]), None);
        assert_eq!(first.len(), 3, "256, 512, 1024");
        assert_eq!(first, second[..first.len()]);
        assert!(of(&chat(&[&other]), None).iter().all(|prefix| !first.contains(prefix)));
        assert!(of(&chat(&[&long]), Some(1)).iter().all(|prefix| !first.contains(prefix)), "another tenant's");
    }

    #[test]
    fn what_is_short_or_says_nothing_has_no_beginning() {
        assert_eq!(of(&chat(&["hi"]), None), [0; 0]);
        assert_eq!(of(br#"{"input": "x"}"#, None), [0; 0]);
        assert_eq!(of(b"[", None), [0; 0]);
        let tokens = json!({"prompt": vec![7; 200_000]}).to_string();
        assert_eq!(of(tokens.as_bytes(), None).len(), 9);
    }
}
