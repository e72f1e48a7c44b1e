//! How a runtime tells its activator what an answer has used, beside what clients are told.

use std::{fmt, str::FromStr};

/// Header of an answer: a [`Used`]. A stream says its prompt's tokens alone: its marks tell the others. Clients do not see it.
pub const USED_HEADER: &str = "pilotlight-used";

/// Tokens that an answer has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Tokens of all prompts.
    pub prompt: u32,
    /// Tokens of all choices.
    pub completion: u32,
}

impl fmt::Display for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.prompt, self.completion)
    }
}

/// Not two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotUsed;

impl FromStr for Used {
    type Err = NotUsed;

    fn from_str(text: &str) -> Result<Self, NotUsed> {
        let (prompt, completion) = text.split_once(',').ok_or(NotUsed)?;
        let number = |text: &str| text.parse().map_err(|_| NotUsed);
        Ok(Self { prompt: number(prompt)?, completion: number(completion)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_was_written() {
        let used = Used { prompt: 12, completion: 345 };
        assert_eq!(used.to_string().parse(), Ok(used));
        for text in ["", "1", "1,", ",1", "1,-1", "1,2,3", "4294967296,0"] {
            assert_eq!(text.parse::<Used>(), Err(NotUsed), "{text}");
        }
    }
}
