//! When a runtime did what for one request, told to its activator, which makes spans of a trace of it: a runtime reaches no collector.

use std::{fmt, str::FromStr};

/// Header by which the activator asks for [`Steps`]. Stripped from what clients send.
pub const TRACED_HEADER: &str = "pilotlight-traced";

/// Header of a whole answer: its [`Steps`]. A stream has them in a mark in front of its end. Clients see neither.
pub const STEPS_HEADER: &str = "pilotlight-steps";

/// Microseconds since the request came in. Of several choices: of the first that begins, and of the last that ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// Its prompt was made of tokens, and waits for the engine.
    pub queued: u64,
    /// The engine began with the prompt.
    pub begun: u64,
    /// The first token was sampled.
    pub first: u64,
    /// The last one was.
    pub last: u64,
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{},{}", self.queued, self.begun, self.first, self.last)
    }
}

/// Not four numbers, each no less than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSteps;

impl FromStr for Steps {
    type Err = NoSteps;

    fn from_str(text: &str) -> Result<Self, NoSteps> {
        let mut numbers = text.split(',').map(|number| number.parse().map_err(|_| NoSteps));
        let mut next = || numbers.next().unwrap_or(Err(NoSteps));
        let steps = Self { queued: next()?, begun: next()?, first: next()?, last: next()? };
        let in_order = steps.queued <= steps.begun && steps.begun <= steps.first && steps.first <= steps.last;
        if in_order && numbers.next().is_none() { Ok(steps) } else { Err(NoSteps) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_read_as_they_were_written_and_only_in_order() {
        let steps = Steps { queued: 1, begun: 22, first: 22, last: 4444 };
        assert_eq!(steps.to_string().parse(), Ok(steps));
        for text in
            ["", "1", "1,2,3", "1,2,3,4,5", "1,2,3,x", "2,1,3,4", "1,2,4,3", "1,2,3,-4", "1,2,3,18446744073709551616"]
        {
            assert_eq!(text.parse::<Steps>(), Err(NoSteps), "{text}");
        }
    }
}
