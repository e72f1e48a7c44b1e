//! Text → the pieces that byte-pair encoding never joins, for the ways of cutting that most vocabularies of bytes were made with: GPT-2's,
//! Llama 3's and Qwen's, Mistral's (Tekken) and GPT-4o's, with or without every digit apart. **Contract:** the pieces are those that the regular
//! expressions of the same JSON mean, and thus those of the tokenizers crate, but where its engine gives up (a million white characters in a
//! row). There is none to compile here, and a prompt is read once. What is not known here is the crate's.

mod class;
mod pattern;

use pattern::Pattern;
pub(crate) use pattern::{GPT4O, LLAMA3, QWEN2, TEKKEN};
use serde::Deserialize;
use serde_json::Value as Json;

/// A way of cutting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cuts {
    /// What is a piece of its own; what is between is cut on its own.
    apart: Option<Apart>,
    pattern: Option<Pattern>,
}

/// A single character that is a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Apart {
    /// Numeric, as the standard library has it.
    Digit,
    /// `\p{N}`, as regular expressions have it: they may know another Unicode.
    Number,
}

impl Apart {
    fn is(self, c: char) -> bool {
        match self {
            Self::Digit => c.is_numeric(),
            Self::Number => class::is_number(c),
        }
    }
}

/// The parts of a pre-tokenizer that can be known.
#[derive(Deserialize)]
#[serde(tag = "type")]
enum Step {
    Sequence {
        pretokenizers: Vec<Json>,
    },
    Digits {
        individual_digits: bool,
    },
    Split {
        pattern: Cutter,
        behavior: String,
        invert: bool,
    },
    ByteLevel {
        add_prefix_space: bool,
        #[serde(rename = "trim_offsets")]
        _trim_offsets: bool,
        #[serde(default = "by_regex")]
        use_regex: bool,
    },
}

fn by_regex() -> bool {
    true
}

#[derive(Deserialize)]
enum Cutter {
    Regex(String),
}

impl Step {
    fn of(json: &Json) -> Option<Self> {
        // A list of values would be read as the fields in their order.
        json.is_object().then(|| Self::deserialize(json).ok()).flatten()
    }
}

/// One number's character.
const NUMBER: &str = r"\p{N}";

impl Cuts {
    /// The way of a `pre_tokenizer` in `tokenizer.json` that ends in bytes; `None` where it is none of those above.
    pub fn of(pre_tokenizer: &Json) -> Option<Self> {
        let steps = match Step::of(pre_tokenizer)? {
            Step::Sequence { pretokenizers } => pretokenizers.iter().map(Step::of).collect::<Option<Vec<_>>>()?,
            one => vec![one],
        };
        let (Step::ByteLevel { add_prefix_space: false, use_regex, .. }, before) = steps.split_last()? else {
            return None;
        };
        let mut cuts = Self { apart: None, pattern: use_regex.then_some(Pattern::Gpt2) };
        for step in before.iter().rev() {
            match step {
                Step::Digits { individual_digits: true } if cuts.apart.is_none() => cuts.apart = Some(Apart::Digit),
                Step::Split { pattern: Cutter::Regex(regex), behavior, invert: false } if behavior == "Isolated" => {
                    match Pattern::of(regex) {
                        // Cut first into words and then into numbers: that is another way.
                        Some(pattern) if cuts.pattern.is_none() && cuts.apart.is_none() => cuts.pattern = Some(pattern),
                        None if regex == NUMBER && cuts.apart.is_none() => cuts.apart = Some(Apart::Number),
                        _ => return None,
                    }
                }
                _ => return None,
            }
        }
        Some(cuts)
    }

    /// Tells `piece` every piece of `text`, in order; together they are the text. Ends with its first error.
    pub fn each<E>(self, text: &str, mut piece: impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
        let Some(apart) = self.apart else { return self.each_word(text, &mut piece) };
        let mut rest = text;
        while let Some((at, number)) = rest.char_indices().find(|(_, c)| apart.is(*c)) {
            let (before, from) = rest.split_at(at);
            let (number, after) = from.split_at(number.len_utf8());
            self.each_word(before, &mut piece)?;
            piece(number)?;
            rest = after;
        }
        self.each_word(rest, &mut piece)
    }

    fn each_word<E>(self, text: &str, piece: &mut impl FnMut(&str) -> Result<(), E>) -> Result<(), E> {
        let mut rest = text;
        while !rest.is_empty() {
            let end = self.pattern.map_or(rest.len(), |pattern| pattern.first(rest));
            let (word, after) = rest.split_at(end);
            piece(word)?;
            rest = after;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ways_that_are_known_are_known_and_no_others() {
        let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
        let split = |regex: &str| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
        let all = |steps: &[Json]| json!({"type": "Sequence", "pretokenizers": steps});
        let digits = |apart: bool| json!({"type": "Digits", "individual_digits": apart});
        let cuts = |apart, pattern| Some(Cuts { apart, pattern });
        let (digit, number) = (Some(Apart::Digit), Some(Apart::Number));
        let (gpt2, llama3) = (Some(Pattern::Gpt2), Some(Pattern::Llama3 { digits: 3 }));
        let long = LLAMA3;
        for (json, expected) in [
            (bytes(true), cuts(None, gpt2)),
            (bytes(false), cuts(None, None)),
            (all(&[digits(true), bytes(true)]), cuts(digit, gpt2)),
            (all(&[split(NUMBER), bytes(true)]), cuts(number, gpt2)),
            (all(&[split(long), bytes(false)]), cuts(None, llama3)),
            (all(&[digits(true), split(long), bytes(false)]), cuts(digit, llama3)),
            (all(&[digits(false), bytes(true)]), None),
            (all(&[split(long), digits(true), bytes(false)]), None),
            (all(&[split(long), bytes(true)]), None),
            (all(&[split("x"), bytes(false)]), None),
            (all(&[bytes(false), split(long)]), None),
            (all(&[]), None),
            (json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}), None),
            (json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true}), cuts(None, gpt2)),
            (json!({"type": "ByteLevel", "add_prefix_space": false}), None),
            (json!(["ByteLevel", false, true, true]), None),
            (json!({"type": "Metaspace", "replacement": "▁"}), None),
            (json!(null), None),
        ] {
            assert_eq!(Cuts::of(&json), expected, "{json}");
        }
    }
}
