//! The example guest under a real host: secrets must not leak wherever a stream is cut. Run for the component that the
//! repository holds, and for one freshly built from source where a toolchain is to be had.
#![allow(clippy::unwrap_used)]
mod host;

use host::Guest;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

const NO_TOOLCHAIN: i32 = 69;

/// (what the model says, what the client may see)
const CASES: &[(&str, &str)] = &[
    ("Write to ada.lovelace@example.co.uk today.", "Write to [email] today."),
    ("Card 4111 1111 1111 1111, code 123.", "Card [number], code 123."),
    ("4111-1111-1111-1111", "[number]"),
    ("a@b.de", "[email]"),
    ("Ends with a dot: bob@example.com.", "Ends with a dot: [email]."),
    ("bob@x.com-4111111111111111", "[email]-[number]"),
    ("x4111111111111111@mail.example", "[email]"),
    ("Two: a.b+c@d.org,e_f%g@h.net", "Two: [email],[email]"),
    ("Not one: a@b, @c.de, 123456789012, 1  2, user@host.x", "Not one: a@b, @c.de, 123456789012, 1  2, user@host.x"),
    ("Grüße an jörg: müller@example.org – €20 🦀", "Grüße an jörg: mü[email] – €20 🦀"),
    ("123456789012345678901234567890 5 left", "[number] left"),
    ("12 345 6789 0123 4 and 5", "[number] and 5"),
    ("", ""),
    (" - 1 - ", " - 1 - "),
];

fn prebuilt() -> &'static Guest {
    static GUEST: OnceLock<Guest> = OnceLock::new();
    GUEST.get_or_init(|| Guest::load(&example().join("redact.wasm")))
}

/// Freshly built, or `None` after a line that names what is missing; with `CI=true` nothing may be missing.
fn built() -> Option<&'static Guest> {
    static GUEST: OnceLock<Option<Guest>> = OnceLock::new();
    GUEST.get_or_init(build).as_ref()
}

fn build() -> Option<Guest> {
    let mut command = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("build-guest"));
    let output = command.arg(example()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(NO_TOOLCHAIN) {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "may not be skipped with CI=true: {said}");
        eprintln!("SKIPPED: {said}");
        return None;
    }
    assert!(output.status.success(), "{said}");
    let component = String::from_utf8(output.stdout).unwrap();
    Some(Guest::load(Path::new(component.lines().last().unwrap())))
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/redact")
}

/// Pushes these pieces and the end behind them, as a server that learns of the end late.
fn stream<'a>(guest: &Guest, pieces: impl IntoIterator<Item = &'a str>) -> String {
    let mut request = guest.start();
    let mut seen: String = pieces.into_iter().map(|piece| request.push(piece, false)).collect();
    seen.push_str(&request.push("", true));
    seen
}

/// Every way to cut the text in two, the same with the end known at the last piece, and one character at a time.
fn check(guest: &Guest, text: &str, expected: &str) {
    assert_eq!(guest.start().push(text, true), expected, "whole");
    let cuts = text.char_indices().map(|(at, _)| at).chain([text.len()]);
    for cut in cuts {
        let (left, right) = text.split_at(cut);
        assert_eq!(stream(guest, [left, right]), expected, "cut into {left:?} and {right:?}");
        let mut request = guest.start();
        let seen = request.push(left, false) + &request.push(right, true);
        assert_eq!(seen, expected, "cut into {left:?} and, with the end, {right:?}");
    }
    let characters = text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]);
    assert_eq!(stream(guest, characters), expected, "one character at a time");
}

fn check_all(guest: &Guest) {
    for (text, expected) in CASES {
        check(guest, text, expected);
    }
    // Neighbours must not change what is found, and all pairs of cuts of a text with everything in it must agree.
    let joined = CASES.iter().map(|case| case.0).collect::<Vec<_>>().join("\n");
    let expected = CASES.iter().map(|case| case.1).collect::<Vec<_>>().join("\n");
    check(guest, &joined, &expected);
}

fn check_rights(guest: &Guest) {
    let foreign: Vec<_> = guest.imports().into_iter().filter(|name| !name.starts_with("inference:guest/")).collect();
    assert!(foreign.is_empty(), "asks for more than the contract's services: {foreign:?}");
    assert_eq!(guest.exports(), ["inference:guest/on-text@0.1.0"]);
}

#[test]
fn the_prebuilt_guest_redacts_the_same_wherever_the_text_is_cut() {
    check_all(prebuilt());
}

#[test]
fn a_freshly_built_guest_redacts_the_same_wherever_the_text_is_cut() {
    if let Some(guest) = built() {
        check_all(guest);
    }
}

#[test]
fn guests_ask_for_nothing_but_the_contract_and_export_only_their_hook() {
    check_rights(prebuilt());
    built().into_iter().for_each(check_rights);
}

#[test]
fn what_is_held_back_is_bounded_whatever_the_model_says() {
    for unit in ["a", "1", "1 ", "a@", "a.", "1-", "@", "a@b."] {
        let text = unit.repeat(20_000 / unit.len());
        let mut request = prebuilt().start();
        let pieces = text.as_bytes().chunks(997).map(|piece| std::str::from_utf8(piece).unwrap());
        let mut seen: usize = pieces.map(|piece| request.push(piece, false).len()).sum();
        seen += request.push("", true).len();
        assert!(seen > 0, "{unit:?}");
    }
}
