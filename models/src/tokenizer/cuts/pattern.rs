//! The patterns, followed by hand: of each the alternatives in their order, greedy, from where the last piece ended. Every character belongs to
//! some alternative, so nothing is left between pieces.

use super::class::{Case, Class};

/// A way of cutting words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pattern {
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    Gpt2,
    /// [`LLAMA3`] and [`QWEN2`]
    Llama3 {
        /// Of a number in one piece at most.
        digits: usize,
    },
    /// [`TEKKEN`] and [`GPT4O`]: words end where lower case turns to upper.
    Cased {
        /// Of a number in one piece at most.
        digits: usize,
        /// A word has its contraction.
        contracted: bool,
    },
}

/// Llama 3's.
pub(crate) const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen's since 2.
pub(crate) const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral's since Nemo: words end where lower case turns to upper.
pub(crate) const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Phi-4-mini's, among others.
pub(crate) const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl Pattern {
    /// The pattern that a regular expression is, word for word.
    pub fn of(regex: &str) -> Option<Self> {
        match regex {
            LLAMA3 => Some(Self::Llama3 { digits: 3 }),
            QWEN2 => Some(Self::Llama3 { digits: 1 }),
            TEKKEN => Some(Self::Cased { digits: 1, contracted: false }),
            GPT4O => Some(Self::Cased { digits: 3, contracted: true }),
            _ => None,
        }
    }

    /// The bytes of the first piece of a text, which is not empty.
    pub fn first(self, text: &str) -> usize {
        let Some((class, bytes)) = Class::first(text) else { return 0 };
        match self {
            Self::Gpt2 => gpt2(text, class, bytes),
            Self::Llama3 { digits } => llama3(text, class, bytes, digits),
            Self::Cased { digits, contracted } => match cased_word(text, class, bytes) {
                Some(end) if contracted => end + contraction(&text[end..], folded).unwrap_or(0),
                Some(end) => end,
                None => other(text, class, bytes, digits, |c| matches!(c, '\r' | '\n' | '/')),
            },
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
    match (class, Class::first(&text[bytes..])) {
        (Class::Letter, _) => run(text, bytes, Class::Letter, usize::MAX),
        (Class::Space | Class::Other, Some((Class::Letter, more))) => {
            run(text, bytes + more, Class::Letter, usize::MAX)
        }
        _ => other(text, class, bytes, digits, |c| matches!(c, '\r' | '\n')),
    }
}

/// What is no word: numbers; characters of no class, and those behind them that `goes_with` them; white space, up to its last line break if it has
/// one.
fn other(text: &str, class: Class, bytes: usize, digits: usize, goes_with: impl Fn(char) -> bool) -> usize {
    let next = Class::first(&text[bytes..]);
    let marks = |from| {
        let end = run(text, from, Class::Other, usize::MAX);
        end + text[end..].find(|c| !goes_with(c)).unwrap_or(text.len() - end)
    };
    match (class, next) {
        (Class::Number, _) => run(text, bytes, Class::Number, digits - 1),
        (Class::Other, _) => marks(bytes),
        (Class::Space, Some((Class::Other, more))) if text.starts_with(' ') => marks(bytes + more),
        _ => match text[..run_of_white(text)].rfind(['\r', '\n']) {
            Some(last) => last + 1,
            None => white(text),
        },
    }
}

/// A word that ends where lower case turns to upper, with one character before it that is no letter, number or line break.
fn cased_word(text: &str, class: Class, bytes: usize) -> Option<usize> {
    let before = matches!(class, Class::Space | Class::Other).then_some(bytes);
    let from = || before.into_iter().chain([0]);
    from().find_map(|from| ends_low(text, from)).or_else(|| from().find_map(|from| begins_high(text, from)))
}

/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+`: where nothing low follows what is high, the last of that which is both is low.
fn ends_low(text: &str, from: usize) -> Option<usize> {
    let (high, last_both) = high(text, from);
    let end = low(text, high);
    if end > high { Some(end) } else { last_both }
}

/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*`
fn begins_high(text: &str, from: usize) -> Option<usize> {
    let (high, _) = high(text, from);
    (high > from).then(|| low(text, high))
}

/// Where what is not low ends, and behind the last of it that is not high either.
fn high(text: &str, from: usize) -> (usize, Option<usize>) {
    let (mut end, mut last_both) = (from, None);
    while let Some((case @ (Case::Upper | Case::Both), bytes)) = Case::first(&text[end..]) {
        end += bytes;
        if case == Case::Both {
            last_both = Some(end);
        }
    }
    (end, last_both)
}

/// Where what is not high ends.
fn low(text: &str, from: usize) -> usize {
    let mut end = from;
    while let Some((Case::Lower | Case::Both, bytes)) = Case::first(&text[end..]) {
        end += bytes;
    }
    end
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
mod tests {
    use super::*;

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
    fn words_of_two_cases_are_cut_between_them() {
        let tekken = Pattern::of(TEKKEN).unwrap();
        assert_eq!(pieces(tekken, "HeLLo"), ["He", "LLo"]);
        assert_eq!(
            pieces(tekken, "HTTPServer's 12 a/b!\n/\n  x"),
            ["HTTPServer", "'s", " ", "1", "2", " a", "/b", "!\n/\n", " ", " x"]
        );
        let gpt4o = Pattern::of(GPT4O).unwrap();
        assert_eq!(pieces(gpt4o, "We'LLgo IT's 1234"), ["We'LL", "go", " IT's", " ", "123", "4"]);
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
        let cut = |text| pieces(Pattern::of(LLAMA3).unwrap(), text);
        assert_eq!(
            cut("I'LL (see) 12345;\n\n  x"),
            ["I", "'LL", " (", "see", ")", " ", "123", "45", ";\n\n", " ", " x"]
        );
        assert_eq!(cut("a \n \n  b'ſ\r\n"), ["a", " \n \n", " ", " b", "'ſ", "\r\n"]);
        assert_eq!(cut("\u{a0}word\u{a0}\u{a0}-"), ["\u{a0}word", "\u{a0}", "\u{a0}", "-"]);
    }
}
