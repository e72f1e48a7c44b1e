//! Names of models: one path component, readable in a URL, a label and a shell.

use crate::Error;

const NAME_BYTES_MAX: usize = 128;

fn allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// The name, if it is one: ASCII letters, digits, `.`, `_`, `-`; begins with a letter or digit.
pub(crate) fn checked(name: &str) -> Result<String, Error> {
    let begins_well = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if !begins_well || name.len() > NAME_BYTES_MAX || !name.chars().all(allowed) {
        return Err(Error::Name { name: name.to_owned() });
    }
    Ok(name.to_owned())
}

/// Any word made into a path component that stays in its folder.
pub(crate) fn harmless(word: &str) -> String {
    let word: String = word.chars().map(|c| if allowed(c) { c } else { '-' }).take(NAME_BYTES_MAX).collect();
    if word.starts_with(|c: char| c.is_ascii_alphanumeric()) { word } else { format!("x{word}") }
}
