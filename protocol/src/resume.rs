//! How an answer goes on in another runtime: what a runtime says beside the events of a stream (marks), what the activator keeps of that
//! (a [`Trail`]), and what it tells the next runtime.
//!
//! A mark is a comment in front of an event's data: `: pl 0 17,5,9`, choice 0 has used these tokens since its last event; with ` end` behind
//! them it is over. `: pl usage`: the event tells the usage. `: pl steps 1,2,3,4`, in front of the end: [`Steps`]. An event of its own, [`INTERRUPTED`] or [`BROKEN`], ends a stream that is to go
//! on elsewhere.
//! The activator takes marks out of what clients get. Since events are passed on whole or not at all, a trail says exactly what a client has
//! seen; what a choice has used since then is computed again, to the same tokens.
//!
//! The next runtime gets the trail as JSON in front of the request's body; [`RESUME_HEADER`] says how many bytes it has.

use crate::{digits, steps::Steps};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    fmt::Write,
    hash::{BuildHasher, RandomState},
    str::FromStr,
    time::{SystemTime, UNIX_EPOCH},
};

/// Header in which the activator says who an answer is, so that its id is the same whoever gives it: an [`AnswerKey`]. With it, a stream has
/// marks. Stripped from what clients send.
pub const ANSWER_HEADER: &str = "pilotlight-answer";

/// Header that says how many bytes of the body are a [`Trail`]. Stripped from what clients send.
pub const RESUME_HEADER: &str = "pilotlight-resume";

/// Header of a stream: what its tokens depend on beside the request. Only a runtime with the same can go on.
pub const IDENTITY_HEADER: &str = "pilotlight-identity";
/// Header of an answer: the digests of the guests that its request went through, in their order, with commas between them. Only where there are
/// guests.
pub const GUESTS_HEADER: &str = "pilotlight-guests";

/// Header of an answer that says no more than that another runtime is to be asked: [`IS_INTERRUPTED`] or [`IS_BROKEN`].
pub const INTERRUPTED_HEADER: &str = "pilotlight-interrupted";

/// [`INTERRUPTED_HEADER`]: the runtime was told to end.
pub const IS_INTERRUPTED: &str = "interrupted";

/// [`INTERRUPTED_HEADER`]: the runtime breaks.
pub const IS_BROKEN: &str = "broken";

/// The event that ends a stream which is to go on elsewhere.
pub const INTERRUPTED: &str = ": pl interrupted\n\n";

/// The event that ends a stream whose runtime breaks and is about to die: as its death, but with all that was said before.
pub const BROKEN: &str = ": pl broken\n\n";

/// A trail's JSON is not larger: about a million tokens.
pub const TRAIL_BYTES_MAX: usize = 8 << 20;

/// How every mark begins.
const BEGIN: &str = ": pl ";
const USAGE: &str = "usage";
const STEPS: &str = "steps ";
const END: &str = " end";
/// In place of no tokens.
const NONE: &str = "-";
const TOKENS_MAX: usize = 1 << 20;
const CHOICES_MAX: usize = 4096;

/// Who an answer is, and when it was begun (seconds since 1970).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerKey {
    /// Random.
    pub id: u128,
    /// Seconds since 1970.
    pub created: u64,
}

impl AnswerKey {
    /// One that no other answer has.
    pub fn new(now: SystemTime) -> Self {
        let random = |n: u64| u128::from(RandomState::new().hash_one(n));
        let created = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self { id: random(0) << 64 | random(1), created }
    }

    /// As a header says it.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut impl Write) -> fmt::Result {
        digits::hexadecimal(self.id, out)?;
        out.write_str("-")?;
        digits::decimal(self.created, out)
    }
}

impl fmt::Display for AnswerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f)
    }
}

/// No answer's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoKey;

impl FromStr for AnswerKey {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        let (id, created) = text.split_once('-').ok_or(NoKey)?;
        let id = u128::from_str_radix(id, 16).map_err(|_| NoKey)?;
        Ok(Self { id, created: created.parse().map_err(|_| NoKey)? })
    }
}

/// What a client has seen of one choice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// Its number.
    pub index: u32,
    /// Tokens it has used, all in all.
    pub tokens: Vec<u32>,
    /// It is over.
    pub ended: bool,
    /// Tokens of all its text, where guests may have changed it; told at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<u32>,
}

impl Past {
    /// Tokens that are counted to who asked.
    pub fn counted(&self) -> u64 {
        self.said.map_or(self.tokens.len() as u64, u64::from)
    }
}

/// What a client has seen of a stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Trail {
    /// As [`IDENTITY_HEADER`] said.
    pub identity: String,
    /// Choices of which something was seen.
    pub choices: Vec<Past>,
    /// The usage was told.
    pub usage: bool,
    /// From the request's arrival to the first byte of the answer.
    #[serde(default)]
    pub first_token_ms: f64,
    /// From there on, in all runtimes that are gone.
    #[serde(default)]
    pub predicted_ms: f64,
}

/// What a line in front of an event was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// The mark of a choice's event, which was taken into the trail: so many tokens has the choice used since its last event.
    Used {
        /// Which choice.
        choice: u32,
        /// How many tokens.
        tokens: u32,
    },
    /// The mark of the event that tells the usage, which was taken into the trail.
    Usage,
    /// The mark of the stream's end, where a trace is made of it.
    Steps(Steps),
    /// The stream goes on elsewhere: its runtime was told to end.
    Interrupted,
    /// The stream goes on elsewhere: its runtime breaks.
    Broken,
    /// Something for the client.
    Other,
}

/// The trail would be too long, or a mark makes no sense: the stream cannot go on elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Untold;

/// The mark of an event of a choice; `ended`: it is its last, and what is counted of its text where that is not its tokens.
pub fn mark(index: u32, tokens: &[u32], ended: Option<Option<u32>>) -> String {
    let mut line = format!("{BEGIN}{index} ");
    for (i, token) in tokens.iter().enumerate() {
        let comma = if i == 0 { "" } else { "," };
        write!(line, "{comma}{token}").expect("writing to a string cannot fail");
    }
    line += if tokens.is_empty() { NONE } else { "" };
    line += if ended.is_some() { END } else { "" };
    if let Some(said) = ended.flatten() {
        write!(line, " {said}").expect("writing to a string cannot fail");
    }
    line + "\n"
}

/// The mark of the event that tells the usage.
pub fn usage_mark() -> String {
    format!("{BEGIN}{USAGE}\n")
}

/// The mark of the stream's end, where a trace is made of it.
pub fn steps_mark(steps: &Steps) -> String {
    format!("{BEGIN}{STEPS}{steps}\n")
}

impl Trail {
    /// Takes an event's first line, without its end.
    ///
    /// # Errors
    /// Where this stream cannot go on elsewhere any more.
    pub fn take(&mut self, line: &[u8]) -> Result<Line, Untold> {
        let Some(said) = line.strip_prefix(BEGIN.as_bytes()) else { return Ok(Line::Other) };
        let said = str::from_utf8(said).map_err(|_| Untold)?;
        if said == USAGE {
            self.usage = true;
            return Ok(Line::Usage);
        }
        if let Some(steps) = said.strip_prefix(STEPS) {
            return steps.parse().map(Line::Steps).map_err(|_| Untold);
        }
        if INTERRUPTED.trim_end().as_bytes() == line {
            return Ok(Line::Interrupted);
        }
        if BROKEN.trim_end().as_bytes() == line {
            return Ok(Line::Broken);
        }
        let (said, ended) = match said.split_once(END) {
            None => (said, None),
            Some((said, "")) => (said, Some(None)),
            Some((said, counted)) => {
                let counted = counted.strip_prefix(' ').and_then(|counted| counted.parse().ok()).ok_or(Untold)?;
                (said, Some(Some(counted)))
            }
        };
        let (index, tokens) = said.split_once(' ').ok_or(Untold)?;
        let index = index.parse().map_err(|_| Untold)?;
        let tokens = if tokens == NONE { "" } else { tokens };
        let tokens: Result<Vec<u32>, _> = tokens.split_terminator(',').map(str::parse).collect();
        let tokens = tokens.map_err(|_| Untold)?;
        self.add(index, &tokens, ended)?;
        Ok(Line::Used { choice: index, tokens: tokens.len() as u32 })
    }

    fn add(&mut self, index: u32, tokens: &[u32], ended: Option<Option<u32>>) -> Result<(), Untold> {
        let all: usize = self.choices.iter().map(|past| past.tokens.len()).sum();
        let at = match self.choices.iter().position(|past| past.index == index) {
            Some(at) => at,
            None => {
                self.choices.push(Past { index, ..Past::default() });
                self.choices.len() - 1
            }
        };
        if all + tokens.len() > TOKENS_MAX || self.choices.len() > CHOICES_MAX {
            return Err(Untold);
        }
        let past = &mut self.choices[at];
        past.tokens.extend_from_slice(tokens);
        past.ended |= ended.is_some();
        past.said = past.said.or(ended.flatten());
        Ok(())
    }

    /// What was seen of a choice; `None`: nothing.
    pub fn past(&self, index: u32) -> Option<&Past> {
        self.choices.iter().find(|past| past.index == index)
    }

    /// Nobody can go on: nothing is kept.
    pub fn lose(&mut self) {
        *self = Self { usage: self.usage, ..Self::default() };
    }

    /// As JSON, for in front of the request's body.
    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and a text serialise")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_as_they_were_written() {
        let mut trail = Trail::default();
        for (index, tokens, ended) in
            [(0, &[1, 22, 333][..], None), (1, &[], None), (0, &[4], Some(None)), (1, &[], Some(Some(9)))]
        {
            let line = mark(index, tokens, ended);
            let used = Line::Used { choice: index, tokens: tokens.len() as u32 };
            assert_eq!(trail.take(line.trim_end().as_bytes()), Ok(used), "{line}");
        }
        let past = |index, tokens: &[u32], said| Past { index, tokens: tokens.into(), ended: true, said };
        assert_eq!(trail.choices, [past(0, &[1, 22, 333, 4], None), past(1, &[], Some(9))]);
        assert_eq!(trail.choices.iter().map(Past::counted).sum::<u64>(), 4 + 9);
        assert!(!trail.usage);
        assert_eq!(trail.take(usage_mark().trim_end().as_bytes()), Ok(Line::Usage));
        assert!(trail.usage);
        assert_eq!(trail.take(INTERRUPTED.trim_end().as_bytes()), Ok(Line::Interrupted));
        let steps = Steps { queued: 1, begun: 2, first: 3, last: 4 };
        assert_eq!(trail.take(steps_mark(&steps).trim_end().as_bytes()), Ok(Line::Steps(steps)));
        assert_eq!(trail.take(b"data: {}"), Ok(Line::Other));
        assert_eq!(trail.take(b": waiting"), Ok(Line::Other));
        assert_eq!(trail.take(BROKEN.trim_end().as_bytes()), Ok(Line::Broken));
        assert_eq!(serde_json::from_slice::<Trail>(&trail.json()).unwrap(), trail);
    }

    #[test]
    fn nonsense_and_endless_trails_are_lost() {
        for line in [
            ": pl ",
            ": pl x 1",
            ": pl 0",
            ": pl 0 1,x",
            ": pl 0 -1",
            ": pl 0 1,2 over",
            ": pl 0 4294967296",
            ": pl 0 1 end x",
            ": pl 0 1 end 4294967296",
            ": pl 0 1 end1",
            ": pl steps 1",
        ] {
            assert_eq!(Trail::default().take(line.as_bytes()), Err(Untold), "{line}");
        }
        let mut trail = Trail::default();
        let line = mark(0, &vec![7; TOKENS_MAX], None);
        assert_eq!(trail.take(line.trim_end().as_bytes()), Ok(Line::Used { choice: 0, tokens: TOKENS_MAX as u32 }));
        assert_eq!(trail.take(b": pl 0 1"), Err(Untold));
        let mut trail = Trail::default();
        let lost = (0..=CHOICES_MAX as u32).map(|index| trail.take(mark(index, &[], None).trim_end().as_bytes()));
        assert_eq!(lost.last(), Some(Err(Untold)));
    }

    #[test]
    fn keys_are_read_as_they_were_written() {
        let key = AnswerKey { id: 0xabc, created: 1_790_000_000 };
        assert_eq!(key.to_string().parse(), Ok(key));
        assert!(key.to_string().starts_with(&"0".repeat(29)));
        for text in ["", "1", "-", "g-1", "1-x", "1-"] {
            assert_eq!(text.parse::<AnswerKey>(), Err(NoKey), "{text}");
        }
    }
}
