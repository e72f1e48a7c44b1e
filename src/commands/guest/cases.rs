//! Cases of a guest: a JSON file each.
//!
//! ```json
//! {"text": "what the model says", "expect": "what a client gets"}
//! {"request": {"messages": [{"role": "user", "content": "hi"}]}, "expect": {"pass": true}}
//! {"request": {"prompt": "hi"}, "expect": {"answer": "hello"}}
//! {"response": "a whole answer", "expect": "another one"}
//! {"text": "forbidden", "reject": 451}
//! {"tokens": {"prompt": [1], "accepted": [4], "vocab": 64}, "expect": {"banned": [11, 13]}}
//! ```
//! A request's `expect` is one of `pass`, `messages`, `prompt`, `answer`; `reject` is the status of a refusal. Of tokens the last of what is said
//! counts: `free`, `banned` or `allowed` (the shorter list), `biases`, `force`, `stop`.

use super::meter::{Meter, Metered};
use crate::exit::{Error, Result};
use guests::{Chain, Finish, Message, Prompt, Refused, Request, Response, Sampling, Usage, Verdict};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A case's file at most, in bytes.
const CASE_BYTES_MAX: u64 = 1 << 20;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    request: Option<Asked>,
    #[serde(default)]
    response: Option<String>,
    #[serde(default)]
    tokens: Option<Tokens>,
    #[serde(default)]
    expect: Value,
    #[serde(default)]
    reject: Option<u16>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    #[serde(default)]
    messages: Option<Vec<Said>>,
    #[serde(default)]
    prompt: Option<String>,
    #[serde(default)]
    metadata: std::collections::BTreeMap<String, String>,
}

/// A prompt, what was accepted behind it, and the vocabulary's size.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tokens {
    prompt: Vec<u32>,
    #[serde(default)]
    accepted: Vec<u32>,
    vocab: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    role: String,
    content: String,
}

/// What came of one way to try a case.
pub struct Tried {
    /// Which way, for people.
    pub how: String,
    /// What was expected and what came, where they differ.
    pub differs: Option<(Value, Value)>,
}

/// The cases of a folder, in the order of their names.
///
/// # Errors
/// There is none, or one is no case.
pub fn read(folder: &Path) -> Result<Vec<(PathBuf, Case)>> {
    let failed = |error| Error::file(format!("reading {}", folder.display()), error);
    if !folder.is_dir() {
        return Err(Error::NoFile(folder.into()));
    }
    let entries = std::fs::read_dir(folder).map_err(failed)?.collect::<std::io::Result<Vec<_>>>().map_err(failed)?;
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|ending| ending == "json"));
    files.sort();
    if files.is_empty() {
        return Err(Error::Usage(format!("{}: there is no case (*.json)", folder.display())));
    }
    files.into_iter().map(|file| Ok((file.clone(), case(&file)?))).collect()
}

fn case(file: &Path) -> Result<Case> {
    let wrong = |what: String| Error::Data(format!("{}: {what}", file.display()));
    let failed = |error| Error::file(format!("reading {}", file.display()), error);
    if std::fs::metadata(file).map_err(failed)?.len() > CASE_BYTES_MAX {
        return Err(wrong(format!("has more than {CASE_BYTES_MAX} bytes")));
    }
    let case: Case =
        serde_json::from_slice(&std::fs::read(file).map_err(failed)?).map_err(|error| wrong(error.to_string()))?;
    let asks = [case.text.is_some(), case.request.is_some(), case.response.is_some(), case.tokens.is_some()];
    if asks.iter().filter(|asks| **asks).count() != 1 {
        return Err(wrong("a case has one of text, request, response, tokens".into()));
    }
    if case.expect.is_null() == case.reject.is_none() {
        return Err(wrong("a case has either expect or reject".into()));
    }
    Ok(case)
}

impl Case {
    /// Tries it in every way, each with guests of its own; what their calls take is added to `meter`.
    pub fn try_out(&self, chain: &Chain, meter: &mut Meter) -> Vec<Tried> {
        if let Some(text) = &self.text {
            return ways(text)
                .into_iter()
                .map(|(how, pieces)| self.tried(how, stream(&mut meter.begin(chain), &pieces)))
                .collect();
        }
        let mut session = meter.begin(chain);
        let said = match (&self.request, &self.tokens, &self.response) {
            (Some(asked), ..) => session.request(&asked.request()).map(said_of),
            (None, Some(tokens), _) => tokens.said(&mut session),
            (None, None, response) => {
                session.response(whole(response.clone().unwrap_or_default())).map(|text| json!(text))
            }
        };
        vec![self.tried("once".into(), said)]
    }

    fn tried(&self, how: String, said: std::result::Result<Value, Refused>) -> Tried {
        let (expected, came) = match (said, self.reject) {
            (Ok(said), None) => (self.expect.clone(), said),
            (Ok(said), Some(status)) => (json!({ "reject": status }), said),
            (Err(refused), Some(status)) => (json!({ "reject": status }), json!({ "reject": refused.status })),
            (Err(refused), None) => (
                self.expect.clone(),
                json!({ "reject": refused.status, "code": refused.code, "message": refused.message }),
            ),
        };
        Tried { how, differs: (expected != came).then_some((expected, came)) }
    }
}

impl Tokens {
    fn said(&self, session: &mut Metered<'_>) -> std::result::Result<Value, Refused> {
        let start = session.start(&self.prompt, self.vocab)?;
        let last = self.accepted.iter().try_fold(start, |_, token| session.next(&[*token], self.vocab))?;
        let mut said = serde_json::Map::new();
        if let Some(mask) = &last.mask {
            let is_allowed = |id: &u32| mask[*id as usize / 32] >> (id % 32) & 1 == 1;
            let (allowed, banned): (Vec<u32>, Vec<u32>) = (0..self.vocab).partition(is_allowed);
            let (name, list) = if banned.len() <= allowed.len() { ("banned", banned) } else { ("allowed", allowed) };
            said.insert(name.into(), json!(list));
        }
        for (name, value, is_said) in [
            ("biases", json!(last.biases), !last.biases.is_empty()),
            ("force", json!(last.force), !last.force.is_empty()),
            ("stop", json!(true), last.stop),
        ] {
            said.extend(is_said.then(|| (name.to_owned(), value)));
        }
        if said.is_empty() {
            said.insert("free".into(), json!(true));
        }
        Ok(Value::Object(said))
    }
}

impl Asked {
    fn request(&self) -> Request {
        let message = |said: &Said| Message { role: said.role.clone(), content: said.content.clone() };
        let prompt = match (&self.messages, &self.prompt) {
            (Some(messages), _) => Prompt::Chat(messages.iter().map(message).collect()),
            (None, prompt) => Prompt::Text(prompt.clone().unwrap_or_default()),
        };
        let metadata = self.metadata.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        Request { model: "model".into(), prompt, sampling: Sampling::default(), metadata }
    }
}

fn said_of(verdict: Verdict) -> Value {
    match verdict {
        Verdict::Pass => json!({ "pass": true }),
        Verdict::Answer(text) => json!({ "answer": text }),
        Verdict::Replace(request) => match request.prompt {
            Prompt::Text(text) => json!({ "prompt": text }),
            Prompt::Chat(messages) => {
                let message = |message: Message| json!({ "role": message.role, "content": message.content });
                json!({ "messages": messages.into_iter().map(message).collect::<Vec<_>>() })
            }
        },
    }
}

pub fn whole(text: String) -> Response {
    let usage = Usage { prompt_tokens: 1, completion_tokens: 1, prefill_us: 0, decode_us: 0 };
    Response { text, finish: Finish::Stop, usage }
}

/// Whole, cut in two at every character, and one character at a time.
fn ways(text: &str) -> Vec<(String, Vec<&str>)> {
    let cuts = text.char_indices().map(|(at, _)| at).skip(1);
    let in_two = cuts.map(|at| (format!("cut at byte {at}"), vec![&text[..at], &text[at..]]));
    let one_by_one = text.char_indices().map(|(at, c)| &text[at..at + c.len_utf8()]).collect();
    let whole = ("whole".to_owned(), vec![text]);
    std::iter::once(whole).chain(in_two).chain([("one character at a time".to_owned(), one_by_one)]).collect()
}

fn stream(session: &mut Metered<'_>, pieces: &[&str]) -> std::result::Result<Value, Refused> {
    let mut seen = String::new();
    for piece in pieces {
        let edited = session.text(piece, false)?;
        seen += &edited.text;
        if edited.stop {
            return Ok(json!(seen));
        }
    }
    seen += &session.text("", true)?.text;
    Ok(json!(seen))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn texts_are_cut_at_every_character() {
        let ways = ways("añ🦀");
        assert_eq!(ways.iter().map(|(_, pieces)| pieces.len()).collect::<Vec<_>>(), [1, 2, 2, 3]);
        assert!(ways.iter().all(|(_, pieces)| pieces.concat() == "añ🦀"));
    }

    #[test]
    fn what_is_no_case_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let told = |text: &str| {
            std::fs::write(folder.path().join("case.json"), text).unwrap();
            read(folder.path()).unwrap_err().to_string()
        };
        assert!(told("{").contains("case.json"));
        assert!(
            told(r#"{"text": "x", "response": "y", "expect": "z"}"#).contains("one of text, request, response, tokens")
        );
        assert!(told(r#"{"text": "x"}"#).contains("either expect or reject"));
        assert!(told(r#"{"text": "x", "expects": "y"}"#).contains("expects"));
        std::fs::remove_file(folder.path().join("case.json")).unwrap();
        assert!(read(folder.path()).unwrap_err().to_string().contains("no case"));
    }
}
