//! What begins at the start of a text, decided from at most some 300 bytes of it: the longest address and one byte more.
//!
//! **Invariant:** an answer other than "undecided" is the same whatever text follows: it never depends on where a window ends.
//! Addresses and digits are ASCII; internationalised addresses are not found.

/// RFC 5321: a local part's length.
const LOCAL_BYTES_MAX: usize = 64;
/// RFC 1035: a domain's length as written.
const DOMAIN_BYTES_MAX: usize = 253;
/// The shortest card numbers have 13 digits.
const NUMBER_DIGITS_MIN: usize = 13;

/// What the text begins with, and how many bytes it is.
pub enum Found {
    /// The beginning of a long number; its further digits are [`Found::Digits`].
    Number(usize),
    /// Further digits of a number.
    Digits(usize),
    /// An e-mail address.
    Email(usize),
    /// One character of anything else.
    Plain(usize),
}

/// Whether something matches at the start, and how long it is.
enum Match {
    Yes(usize),
    No,
    /// More text could decide it.
    Undecided,
}

/// What a non-empty text begins with; `None` where more text could change that. With `end` nothing more comes.
pub fn at_start(text: &str, end: bool) -> Option<Found> {
    let bytes = text.as_bytes();
    match number(bytes, end) {
        Match::Yes(length) => return Some(Found::Number(length)),
        Match::Undecided => return None,
        Match::No => {}
    }
    match email(bytes, end) {
        Match::Yes(length) => return Some(Found::Email(length)),
        Match::Undecided => return None,
        Match::No => {}
    }
    text.chars().next().map(|first| Found::Plain(first.len_utf8()))
}

/// The same right behind a digit of a long number.
pub fn more_digits(text: &str, end: bool) -> Option<Found> {
    match text.as_bytes() {
        [b'0'..=b'9', ..] => Some(Found::Digits(1)),
        [b' ' | b'-', b'0'..=b'9', ..] => Some(Found::Digits(2)),
        [b' ' | b'-'] if !end => None,
        _ => at_start(text, end),
    }
}

/// Digits with single spaces or hyphens between them, up to the digit that makes them a long number.
fn number(text: &[u8], end: bool) -> Match {
    let (mut at, mut digits) = (0, 0);
    while digits < NUMBER_DIGITS_MIN {
        match text[at..] {
            [b'0'..=b'9', ..] => {
                digits += 1;
                at += 1;
            }
            [b' ' | b'-', b'0'..=b'9', ..] if digits > 0 => at += 1,
            [] | [b' ' | b'-'] if digits > 0 && !end => return Match::Undecided,
            _ => return Match::No,
        }
    }
    Match::Yes(at)
}

fn email(text: &[u8], end: bool) -> Match {
    let local = text.iter().take(LOCAL_BYTES_MAX + 1).take_while(|&&byte| is_local(byte)).count();
    match text.get(local) {
        None if !end && local <= LOCAL_BYTES_MAX => return Match::Undecided,
        Some(b'@') if (1..=LOCAL_BYTES_MAX).contains(&local) => {}
        _ => return Match::No,
    }
    let rest = &text[local + 1..];
    let domain = rest.iter().take(DOMAIN_BYTES_MAX).take_while(|&&byte| is_domain(byte)).count();
    if domain == rest.len() && domain < DOMAIN_BYTES_MAX && !end {
        return Match::Undecided;
    }
    match domain_end(&rest[..domain]) {
        Some(length) => Match::Yes(local + 1 + length),
        None => Match::No,
    }
}

/// Where the longest domain ends that these bytes begin with: a dot that is not their first, then two letters or more.
fn domain_end(bytes: &[u8]) -> Option<usize> {
    let dots = (1..bytes.len()).rev().filter(|&at| bytes[at] == b'.');
    dots.map(|dot| (dot, bytes[dot + 1..].iter().take_while(|byte| byte.is_ascii_alphabetic()).count()))
        .find(|&(_, letters)| letters >= 2)
        .map(|(dot, letters)| dot + 1 + letters)
}

fn is_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'%' | b'+' | b'-')
}

fn is_domain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-')
}
