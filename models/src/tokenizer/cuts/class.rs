//! What patterns tell apart in a text: Unicode's letters, numbers and white space, and the rest.

use regex_syntax::hir::{self, HirKind};
use std::sync::LazyLock;

/// Every character is of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// `\p{L}`
    Letter,
    /// `\p{N}`
    Number,
    /// `[\r\n]`
    Break,
    /// `\s` beside those
    Space,
    /// `[^\s\p{L}\p{N}]`
    Other,
}

impl Class {
    /// Of the first character of a text, and its bytes; `None` at the end.
    #[inline]
    pub fn first(text: &str) -> Option<(Self, usize)> {
        match text.as_bytes().first() {
            Some(byte) if byte.is_ascii() => Some((ASCII[usize::from(*byte)], 1)),
            _ => text.chars().next().map(|c| (Self::of(c), c.len_utf8())),
        }
    }

    /// `\s`
    pub fn is_white(self) -> bool {
        matches!(self, Self::Space | Self::Break)
    }

    fn of(c: char) -> Self {
        if c.is_whitespace() {
            Self::Space
        } else if is_number(c) {
            Self::Number
        } else if LETTERS.has(c) {
            Self::Letter
        } else {
            Self::Other
        }
    }
}

/// Of ASCII.
static ASCII: [Class; 128] = {
    let mut classes = [Class::Other; 128];
    let mut at = 0;
    while at < classes.len() {
        classes[at] = match at as u8 {
            b'\r' | b'\n' => Class::Break,
            b'\t' | b' ' | 0x0B | 0x0C => Class::Space,
            b'0'..=b'9' => Class::Number,
            b'a'..=b'z' | b'A'..=b'Z' => Class::Letter,
            _ => Class::Other,
        };
        at += 1;
    }
    classes
};

/// `\p{N}`
pub(super) fn is_number(c: char) -> bool {
    if c.is_ascii() { c.is_ascii_digit() } else { NUMBERS.has(c) }
}

/// What of two cases a character can pass for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    /// `[\p{Lu}\p{Lt}]`
    Upper,
    /// `\p{Ll}`
    Lower,
    /// `[\p{Lm}\p{Lo}\p{M}]`
    Both,
    /// None of them.
    Neither,
}

impl Case {
    /// Of the first character of a text, and its bytes; `None` at the end.
    pub fn first(text: &str) -> Option<(Self, usize)> {
        text.chars().next().map(|c| (Self::of(c), c.len_utf8()))
    }

    fn of(c: char) -> Self {
        match c {
            'a'..='z' => Self::Lower,
            'A'..='Z' => Self::Upper,
            _ if c.is_ascii() => Self::Neither,
            _ if LOWER.has(c) => Self::Lower,
            _ if UPPER.has(c) => Self::Upper,
            _ if BOTH.has(c) => Self::Both,
            _ => Self::Neither,
        }
    }
}

/// First and last characters, in order.
struct Ranges(Vec<(char, char)>);

/// The standard library has other properties (what is alphabetic has marks beside letters), and may know a younger Unicode: these are the tables
/// of regular expressions.
static LETTERS: LazyLock<Ranges> = LazyLock::new(|| Ranges::of(r"\p{L}"));
static NUMBERS: LazyLock<Ranges> = LazyLock::new(|| Ranges::of(r"\p{N}"));
static UPPER: LazyLock<Ranges> = LazyLock::new(|| Ranges::of(r"[\p{Lu}\p{Lt}]"));
static LOWER: LazyLock<Ranges> = LazyLock::new(|| Ranges::of(r"\p{Ll}"));
static BOTH: LazyLock<Ranges> = LazyLock::new(|| Ranges::of(r"[\p{Lm}\p{Lo}\p{M}]"));

impl Ranges {
    fn of(class: &str) -> Self {
        let parsed = regex_syntax::parse(class).expect("a class that there is");
        let HirKind::Class(hir::Class::Unicode(ranges)) = parsed.kind() else { unreachable!("more than bytes") };
        Self(ranges.ranges().iter().map(|range| (range.start(), range.end())).collect())
    }

    fn has(&self, c: char) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= c);
        after > 0 && c <= self.0[after - 1].1
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn all(class: &str) -> HashSet<char> {
        Ranges::of(class).0.into_iter().flat_map(|(first, last)| first..=last).collect()
    }

    /// Of every character there is, as the regular expressions of the same version have it.
    #[test]
    fn classes_are_those_of_regular_expressions() {
        let (letters, numbers, white) = (all(r"\p{L}"), all(r"\p{N}"), all(r"\s"));
        for c in '\0'..=char::MAX {
            let (class, bytes) = Class::first(c.encode_utf8(&mut [0; 4])).unwrap();
            assert_eq!(bytes, c.len_utf8());
            let found = (class == Class::Letter, class == Class::Number, class.is_white(), class == Class::Break);
            let expected = (letters.contains(&c), numbers.contains(&c), white.contains(&c), c == '\r' || c == '\n');
            assert_eq!(found, expected, "{c:?}");
        }
        assert_eq!(Class::first(""), None);
    }

    #[test]
    fn cases_are_those_of_regular_expressions() {
        let (upper, lower, both) = (all(r"[\p{Lu}\p{Lt}]"), all(r"\p{Ll}"), all(r"[\p{Lm}\p{Lo}\p{M}]"));
        for c in '\0'..=char::MAX {
            let expected = match (upper.contains(&c), lower.contains(&c), both.contains(&c)) {
                (true, false, false) => Case::Upper,
                (false, true, false) => Case::Lower,
                (false, false, true) => Case::Both,
                _ => Case::Neither,
            };
            assert_eq!(Case::first(c.encode_utf8(&mut [0; 4])), Some((expected, c.len_utf8())), "{c:?}");
        }
    }
}
