//! An example guest: replaces e-mail addresses by `[email]` and long digit sequences (card and account numbers) by
//! `[number]`, wherever a stream happens to be cut.
//!
//! What is found depends on the text alone and never on how it was split into windows: a window's end is held back as
//! long as more text could change what was found there, which is some 300 bytes at most.

mod find;

use find::Found;
use guest_sdk::{Edit, Rejection, TextHook};

/// The request's own state.
#[derive(Default)]
struct Redactor {
    /// The text settled last was a number whose further digits may still come.
    in_number: bool,
}

impl TextHook for Redactor {
    fn text(&mut self, window: &str, end: bool) -> Result<Edit, Rejection> {
        let mut emit = String::with_capacity(window.len());
        let mut settled = 0;
        while settled < window.len() {
            let rest = &window[settled..];
            let found = if self.in_number { find::more_digits(rest, end) } else { find::at_start(rest, end) };
            let Some(found) = found else { break };
            self.in_number = matches!(found, Found::Number(_) | Found::Digits(_));
            settled += match found {
                Found::Number(bytes) => {
                    emit.push_str("[number]");
                    bytes
                }
                Found::Digits(bytes) => bytes,
                Found::Email(bytes) => {
                    emit.push_str("[email]");
                    bytes
                }
                Found::Plain(bytes) => {
                    emit.push_str(&rest[..bytes]);
                    bytes
                }
            };
        }
        Ok(Edit::replace(settled, emit))
    }
}

guest_sdk::export!(Redactor: text);
