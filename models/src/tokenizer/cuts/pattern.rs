//! The patterns, followed by hand: of each the alternatives in their order, greedy, from where the last piece ended. Every character belongs to
//! some alternative, so nothing is left between pieces.

use super::class::Class;

/// A way of cutting words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    Gpt2,
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    Llama3 {
        /// Of a number in one piece at most.
        digits: usize,
    },
}

/// What Llama 3's begins with, and ends with behind the numbers.
const LLAMA3: (&str, &str) =
    (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|", r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+");

impl Pattern {
    /// The pattern that a regular expression is, word for word.
    pub fn of(regex: &str) -> Option<Self> {
        match regex.strip_prefix(LLAMA3.0)?.strip_suffix(LLAMA3.1)? {
            r"\p{N}{1,3}" => Some(Self::Llama3 { digits: 3 }),
            r"\p{N}" => Some(Self::Llama3 { digits: 1 }),
            _ => None,
        }
    }

    /// The bytes of the first piece of a text, which is not empty.
    pub fn first(self, text: &str) -> usize {
        let Some((class, bytes)) = Class::first(text) else { return 0 };
        match self {
            Self::Gpt2 => gpt2(text, class, bytes),
            Self::Llama3 { digits } => llama3(text, class, bytes, digits),
        }
    }
}

fn gpt2(text: &str, class: Class, bytes: usize) -> usize {
    if let Some(contracted) = contraction(text, |c| c) {
        return contracted;
    }
    if !class.is_white() {
        return run(text, bytes, class, usize::MAX);
    }
    let next = Class::first(&text[bytes..]).filter(|_| text.starts_with(' '));
    match next {
        Some((next, more)) if !next.is_white() => run(text, bytes + more, next, usize::MAX),
        _ => white(text),
    }
}

fn llama3(text: &str, class: Class, bytes: usize, digits: usize) -> usize {
    if let Some(contracted) = contraction(text, folded) {
        return contracted;
    }
    let next = Class::first(&text[bytes..]);
    match (class, next) {
        (Class::Letter, _) => run(text, bytes, Class::Letter, usize::MAX),
        (Class::Number, _) => run(text, bytes, Class::Number, digits - 1),
        (Class::Space | Class::Other, Some((Class::Letter, more))) => {
            run(text, bytes + more, Class::Letter, usize::MAX)
        }
        (Class::Other, _) => with_breaks(text, bytes),
        (Class::Space, Some((Class::Other, more))) if text.starts_with(' ') => with_breaks(text, bytes + more),
        _ => {
            let end = run_of_white(text);
            match text[..end].rfind(['\r', '\n']) {
                Some(last) => last + 1,
                None => white(text),
            }
        }
    }
}

/// An apostrophe and what it stands before at the beginning of a text, in bytes; `fold`: how a letter of it is taken.
fn contraction(text: &str, fold: impl Fn(char) -> char) -> Option<usize> {
    let mut letters = text.strip_prefix('\'')?.chars();
    let first = letters.next()?;
    let two = |second| (letters.clone().next().map(&fold) == Some(second)).then_some(3);
    match fold(first) {
        's' | 't' | 'm' | 'd' => Some(1 + first.len_utf8()),
        'r' | 'v' => two('e'),
        'l' => two('l'),
        _ => None,
    }
}

/// A letter of a contraction in any case; the long s is one of s.
fn folded(c: char) -> char {
    if c == 'ſ' { 's' } else { c.to_ascii_lowercase() }
}

/// Where a run of one class ends that is known up to `from`, of so many characters more at most.
fn run(text: &str, from: usize, class: Class, most: usize) -> usize {
    let mut end = from;
    for _ in 0..most {
        match Class::first(&text[end..]) {
            Some((found, bytes)) if found == class => end += bytes,
            _ => break,
        }
    }
    end
}

/// Characters of no other class, and the line breaks behind them.
fn with_breaks(text: &str, from: usize) -> usize {
    run(text, run(text, from, Class::Other, usize::MAX), Class::Break, usize::MAX)
}

fn run_of_white(text: &str) -> usize {
    text.find(|c: char| !c.is_whitespace()).unwrap_or(text.len())
}

/// White space: the last of it is left to what follows, if anything does, and it is more than one.
fn white(text: &str) -> usize {
    let end = run_of_white(text);
    let last = text[..end].chars().next_back().map_or(0, char::len_utf8);
    if end == text.len() || end == last { end } else { end - last }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;

    /// As models have it.
    pub fn llama3() -> String {
        [LLAMA3.0, r"\p{N}{1,3}", LLAMA3.1].concat()
    }

    fn pieces(pattern: Pattern, text: &str) -> Vec<&str> {
        let mut rest = text;
        std::iter::from_fn(|| {
            let (piece, after) = rest.split_at(pattern.first(rest));
            rest = after;
            (!piece.is_empty()).then_some(piece)
        })
        .collect()
    }

    #[test]
    fn gpt2_cuts_words_numbers_marks_and_spaces() {
        let cut = |text| pieces(Pattern::Gpt2, text);
        assert_eq!(
            cut("It's  12345 o'clock!\n\n x"),
            ["It", "'s", " ", " 12345", " o", "'", "clock", "!", "\n\n", " x"]
        );
        assert_eq!(cut("I'LL 'tis \t\u{a0}é½"), ["I", "'", "LL", " '", "tis", " \t", "\u{a0}", "é", "½"]);
        assert_eq!(cut("a  "), ["a", "  "]);
    }

    #[test]
    fn llama3_cuts_numbers_by_three_and_keeps_line_breaks_with_marks() {
        let cut = |text| pieces(Pattern::of(&llama3()).unwrap(), text);
        assert_eq!(
            cut("I'LL (see) 12345;\n\n  x"),
            ["I", "'LL", " (", "see", ")", " ", "123", "45", ";\n\n", " ", " x"]
        );
        assert_eq!(cut("a \n \n  b'ſ\r\n"), ["a", " \n \n", " ", " b", "'ſ", "\r\n"]);
        assert_eq!(cut("\u{a0}word\u{a0}\u{a0}-"), ["\u{a0}word", "\u{a0}", "\u{a0}", "-"]);
    }
}
