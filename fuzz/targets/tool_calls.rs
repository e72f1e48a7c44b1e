//! An answer of any text in any pieces, read for calls of any family: the same comes out however it was cut, and what is no call is
//! content.
#![no_main]

use libfuzzer_sys::fuzz_target;
use runtime::tools::{Format, Parsed, Parser, Reading};

fuzz_target!(|input: &[u8]| {
    let [format, parallel, first, second, text @ ..] = input else { return };
    let format = match format % 5 {
        0 => Format::Hermes,
        1 => Format::Mistral,
        2 => Format::MistralNamed,
        3 => Format::Phi,
        _ => Format::Json,
    };
    let parallel = parallel % 2 == 1;
    let names = ["f", "gg"].map(str::to_owned).into();
    let parser = || Parser::new(Reading { format, names: std::sync::Arc::clone(&names), parallel }, 7);
    let text = String::from_utf8_lossy(text);
    let whole = read(parser(), &text, &[usize::MAX]);
    let cut = read(parser(), &text, &[usize::from(*first).max(1), usize::from(*second).max(1)]);
    assert_eq!(whole, cut, "{format:?}");
    let (content, calls) = whole;
    assert!(parallel || calls.len() < 2, "several calls");
    assert!(!calls.is_empty() || content == text, "content was lost");
    let mut chars = text.chars();
    assert!(content.chars().all(|c| chars.any(|other| other == c)), "content that never came");
});

/// Content, and names and arguments; the text in pieces of these lengths.
fn read(mut parser: Parser, text: &str, lengths: &[usize]) -> (String, Vec<(String, String)>) {
    let (mut content, mut calls) = (String::new(), Vec::<(String, String)>::new());
    let mut gather = |parsed: Parsed| {
        content += &parsed.content;
        for delta in parsed.calls {
            if let Some((_, name)) = delta.begins {
                calls.push((name, String::new()));
            }
            assert_eq!(delta.index as usize + 1, calls.len(), "parts of calls come in order");
            calls.last_mut().expect("a call has begun").1 += &delta.arguments;
        }
    };
    let mut chars = text.chars().peekable();
    for length in lengths.iter().cycle() {
        if chars.peek().is_none() {
            break;
        }
        gather(parser.push(&chars.by_ref().take(*length).collect::<String>()));
    }
    gather(parser.finish());
    (content, calls)
}
