//! A stream of server-sent events on its way to a client.
//!
//! **Invariant:** what a client gets is whole events, and always `data: [DONE]` at the end, after an error too, so that a
//! cut stream can be told. Bytes are passed on as they come; only the rest of an event that is not whole yet is kept back.
//!
//! Where the runtime dies, or is told to end, the stream goes on with what another says, exactly behind the last event that was passed on:
//! marks, which are taken out of what clients get, say what that had used ([`Trail`]).

use std::{convert::Infallible, pin::Pin, time::Duration};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use protocol::{
    ApiError, ErrorKind,
    resume::{Line, Trail, Untold},
    sse,
};
use tokio::time::Instant;

use crate::{
    endpoint::Unanswered,
    forward::{Answer, Lost},
    pace::Pace,
};

/// Between two comments on a stream whose answer is waited for.
pub const COMMENT_EVERY: Duration = Duration::from_secs(10);

/// An event that grows larger than this is broken.
const EVENT_BYTES_MAX: usize = 4 << 20;

/// What is kept of an error that the runtime answered with after our headers had left.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// An answer that is still to come.
pub type Pending = Pin<Box<dyn Future<Output = Result<Answer, ApiError>> + Send>>;

/// A client's stream.
pub struct Events {
    state: State,
    /// The request's deadline.
    deadline: Instant,
}

enum State {
    /// Comments meanwhile. With a trail it is the rest of an answer that is waited for.
    Waiting { answer: Pending, comment_at: Instant, trail: Option<Trail> },
    /// The runtime's events. With a trail another can go on.
    Relaying { answer: Box<Answer>, whole: WholeEvents, trail: Option<Trail>, pace: Pace },
    /// Nothing follows.
    Ended,
}

impl Events {
    /// Headers are about to leave before there is an answer.
    pub fn waiting(answer: Pending, deadline: Instant) -> Self {
        Self { state: State::Waiting { answer, comment_at: Instant::now(), trail: None }, deadline }
    }

    /// The runtime's own stream.
    pub fn relaying(answer: Answer, deadline: Instant) -> Self {
        Self { state: State::relaying(answer, None), deadline }
    }

    /// As a response's body. Dropping it drops the runtime's stream, or gives up the place of the one that waits.
    pub fn into_body(self) -> Body {
        Body::from_stream(stream::unfold(self, |mut events| async move {
            let bytes = events.next().await?;
            Some((Ok::<_, Infallible>(bytes), events))
        }))
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            match &mut self.state {
                State::Waiting { answer, comment_at, .. } => tokio::select! {
                    biased;
                    answer = answer => if let Some(end) = self.answered(answer).await {
                        return Some(end);
                    },
                    () = tokio::time::sleep_until(*comment_at) => {
                        *comment_at += COMMENT_EVERY;
                        return Some(sse::comment("waiting").into());
                    }
                },
                State::Relaying { answer, whole, trail, pace } => {
                    let data = match answer.timers().within(self.deadline, answer.next()).await {
                        Ok(Some(Ok(data))) => data,
                        Ok(None | Some(Err(_))) if whole.done => return None,
                        Ok(None) => return Some(self.end(&cut("ended it too early"))),
                        Ok(Some(Err(error))) => {
                            tracing::warn!(trace_id = answer.trace_id(), %error, "a runtime was lost while it answered");
                            let died = matches!(error, Unanswered::ConnectionLost(_));
                            if died && self.go_on(Lost::Died) {
                                continue;
                            }
                            return Some(self.end(&cut("was lost")));
                        }
                        Err(_) => return Some(self.end(&ApiError::deadline_exceeded())),
                    };
                    let Ok(bytes) = whole.push(data) else {
                        return Some(self.end(&cut("sent an event without an end")));
                    };
                    let mut steps = None;
                    let (bytes, lost) = unmark(bytes, trail, |line| match line {
                        Line::Used { choice, tokens } => pace.used(choice, tokens),
                        Line::Steps(said) => steps = Some(said),
                        Line::Usage | Line::Interrupted | Line::Broken | Line::Other => {}
                    });
                    pace.tick(std::time::Instant::now);
                    if let Some(trail) = trail {
                        answer.passed_on(trail);
                    }
                    steps.iter().for_each(|steps| answer.told(steps));
                    if let Some(lost) = lost
                        && !self.go_on(lost)
                    {
                        // Behind what came whole before it.
                        return Some([bytes, self.end(&cut("was told to end"))].concat().into());
                    }
                    if !bytes.is_empty() {
                        return Some(bytes);
                    }
                }
                State::Ended => return None,
            }
        }
    }

    /// Waits for the rest of the answer from another runtime; false where none can give it.
    fn go_on(&mut self, lost: Lost) -> bool {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Relaying { answer, trail: Some(mut trail), .. } if !trail.identity.is_empty() => {
                answer.clock(&mut trail);
                let seen = trail.clone();
                let answer: Pending = Box::pin(async move { answer.go_on(lost, seen).await });
                self.state = State::Waiting { answer, comment_at: Instant::now() + COMMENT_EVERY, trail: Some(trail) };
                true
            }
            State::Relaying { .. } | State::Waiting { .. } | State::Ended => false,
        }
    }

    /// What to send when the answer that was waited for is no stream.
    async fn answered(&mut self, answer: Result<Answer, ApiError>) -> Option<Bytes> {
        match answer {
            Ok(answer) if answer.is_events() => {
                let before = match &mut self.state {
                    State::Waiting { trail, .. } => trail.take(),
                    State::Relaying { .. } | State::Ended => None,
                };
                self.state = State::relaying(answer, before);
                None
            }
            Ok(answer) => {
                let error = error_of(answer);
                let error = tokio::time::timeout_at(self.deadline, error).await.unwrap_or_default();
                self.state = State::Ended;
                Some(error_event(&error))
            }
            Err(error) => Some(self.end(&error)),
        }
    }

    fn end(&mut self, error: &ApiError) -> Bytes {
        self.state = State::Ended;
        sse::error_end(error).into()
    }
}

impl State {
    /// `before`: what another runtime said of the same answer.
    fn relaying(answer: Answer, before: Option<Trail>) -> Self {
        let begun = answer.identity().map(|identity| Trail { identity: identity.to_owned(), ..Trail::default() });
        let pace = answer.pace();
        Self::Relaying { trail: before.or(begun), answer: Box::new(answer), whole: WholeEvents::default(), pace }
    }
}

/// Whole events without their marks, which are noted in the trail and `told`; and why others go on, where they end with that word. A trail
/// that cannot be kept is lost: nobody can go on.
fn unmark(events: Bytes, trail: &mut Option<Trail>, mut told: impl FnMut(Line)) -> (Bytes, Option<Lost>) {
    let (mut rest, mut out, mut from) = (&events[..], BytesMut::new(), 0);
    while !rest.is_empty() {
        let at = events.len() - rest.len();
        let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let said = match trail.as_mut().map(|trail| trail.take(line)) {
            None => Ok(Line::Other),
            Some(said) => said,
        };
        let is_mark = said != Ok(Line::Other);
        if let (Err(Untold), Some(trail)) = (said, trail.as_mut()) {
            trail.lose();
        }
        if is_mark {
            out.extend_from_slice(&events[from..at]);
            from = at + line.len() + 1;
        }
        match said {
            Ok(Line::Interrupted) => return (out.freeze(), Some(Lost::Interrupted)),
            Ok(Line::Broken) => return (out.freeze(), Some(Lost::Died)),
            Ok(line) => told(line),
            Err(Untold) => {}
        }
        let end = rest.windows(2).position(|pair| pair == b"\n\n").map_or(rest.len(), |end| end + 2);
        rest = &rest[end..];
    }
    match from {
        0 => (events, None),
        // One event in front, as is usual: nothing is copied.
        _ if out.is_empty() => (events.slice(from..), None),
        _ => {
            out.extend_from_slice(&events[from..]);
            (out.freeze(), None)
        }
    }
}

fn cut(what: &str) -> ApiError {
    ApiError::new(ErrorKind::Unavailable, format!("The answer is cut: the model's runtime {what}."))
}

/// The body of an answer that is no stream, as far as it is needed.
async fn error_of(mut answer: Answer) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(Ok(data)) = answer.next().await {
        body.extend_from_slice(&data);
        if body.len() > ERROR_BYTES_MAX {
            break;
        }
    }
    body
}

/// A runtime's error object as the last event of a stream. What is no JSON cannot be shown and is replaced.
fn error_event(body: &[u8]) -> Bytes {
    match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(error) if error.get("error").is_some() => format!("{}{}", sse::event(&error), sse::DONE).into(),
        Ok(_) | Err(_) => sse::error_end(&cut("answered with no stream")).into(),
    }
}

/// Cuts bytes at the ends of events.
#[derive(Debug, Default)]
struct WholeEvents {
    rest: BytesMut,
    /// The last event so far was `[DONE]`.
    done: bool,
}

/// An event has no end.
#[derive(Debug, PartialEq, Eq)]
struct TooLong;

impl WholeEvents {
    /// As much as is whole now.
    fn push(&mut self, data: Bytes) -> Result<Bytes, TooLong> {
        let whole = if self.rest.is_empty() && data.ends_with(b"\n\n") {
            data
        } else {
            self.rest.extend_from_slice(&data);
            let end = self.rest.windows(2).rposition(|pair| pair == b"\n\n").map_or(0, |at| at + 2);
            self.rest.split_to(end).freeze()
        };
        if self.rest.len() > EVENT_BYTES_MAX {
            return Err(TooLong);
        }
        if !whole.is_empty() {
            self.done = whole.ends_with(sse::DONE.as_bytes());
        }
        Ok(whole)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Pushes each part and expects what comes out of it.
    fn check(parts: &[(&str, &str)], rest: &str, done: bool) {
        let mut whole = WholeEvents::default();
        for (part, expected) in parts {
            assert_eq!(whole.push(Bytes::copy_from_slice(part.as_bytes())).unwrap(), expected.as_bytes());
        }
        assert_eq!((&whole.rest[..], whole.done), (rest.as_bytes(), done));
    }

    #[test]
    fn whole_events_pass_and_only_the_rest_is_kept_back() {
        check(&[("data: 1\n\n", "data: 1\n\n"), ("data: 2\n\n", "data: 2\n\n")], "", false);
        check(&[("data: 1\n\nda", "data: 1\n\n"), ("ta: 2\n", ""), ("\n", "data: 2\n\n")], "", false);
        check(&[("data: 1\n\ndata: {\"cut", "data: 1\n\n")], "data: {\"cut", false);
        check(&[("data: 1\n\ndata: [DONE]\n\n", "data: 1\n\ndata: [DONE]\n\n")], "", true);
        check(&[("data: [DO", ""), ("NE]\n\n", "data: [DONE]\n\n")], "", true);
    }

    /// Takes marks out and expects what is left, whether others go on, and what choice 0 has used.
    fn check_marks(events: &str, left: &str, goes_on: Option<Lost>, used: &[u32]) {
        let mut trail = Some(Trail { identity: "x".into(), ..Trail::default() });
        let (bytes, interrupted) = unmark(Bytes::copy_from_slice(events.as_bytes()), &mut trail, |_| {});
        assert_eq!((&bytes[..], interrupted), (left.as_bytes(), goes_on), "{events}");
        assert_eq!(trail.unwrap().past(0).map_or(&[][..], |past| &past.tokens), used, "{events}");
    }

    #[test]
    fn marks_are_taken_out_of_events_and_noted() {
        check_marks("", "", None, &[]);
        check_marks("data: 1\n\n", "data: 1\n\n", None, &[]);
        check_marks(": pl 0 4,5\ndata: 1\n\n", "data: 1\n\n", None, &[4, 5]);
        check_marks(": waiting\n\n: pl 0 4\ndata: 1\n\n", ": waiting\n\ndata: 1\n\n", None, &[4]);
        let two = ": pl 0 4\ndata: 1\n\n: pl 0 5 end\ndata: 2\n\n: pl usage\ndata: 3\n\ndata: [DONE]\n\n";
        check_marks(two, "data: 1\n\ndata: 2\n\ndata: 3\n\ndata: [DONE]\n\n", None, &[4, 5]);
        check_marks(": pl 0 4\ndata: 1\n\n: pl interrupted\n\n", "data: 1\n\n", Some(Lost::Interrupted), &[4]);
        check_marks(": pl 0 4\ndata: 1\n\n: pl broken\n\n", "data: 1\n\n", Some(Lost::Died), &[4]);
        check_marks(": pl steps 1,2,3,4\ndata: [DONE]\n\n", "data: [DONE]\n\n", None, &[]);
        check_marks(": pl interrupted\n\n", "", Some(Lost::Interrupted), &[]);
        let (bytes, _) = unmark(Bytes::from_static(b": pl 0 4\ndata: 1\n\n"), &mut None, |_| {});
        assert!(bytes.starts_with(b": pl"), "a stream without a trail is passed on as it is");
        let mut trail = Some(Trail { identity: "x".into(), ..Trail::default() });
        let (bytes, _) = unmark(Bytes::from_static(b": pl what\ndata: 1\n\n"), &mut trail, |_| {});
        assert_eq!((&bytes[..], trail.unwrap().identity.as_str()), (&b"data: 1\n\n"[..], ""), "nobody goes on");
    }

    #[test]
    fn an_event_without_an_end_is_not_kept_for_ever() {
        let mut whole = WholeEvents::default();
        assert_eq!(whole.push(Bytes::from(vec![b'x'; EVENT_BYTES_MAX])), Ok(Bytes::new()));
        assert_eq!(whole.push(Bytes::from_static(b"x")), Err(TooLong));
    }

    #[test]
    fn a_runtimes_error_after_early_headers_becomes_an_event_and_done() {
        let event = error_event(br#"{"error": {"message": "too long"}}"#);
        assert_eq!(event, "data: {\"error\":{\"message\":\"too long\"}}\n\ndata: [DONE]\n\n");
        for other in [&b"oops"[..], b"{}", b""] {
            assert!(error_event(other).starts_with(b"data: {\"error\":{"), "{other:?}");
            assert!(error_event(other).ends_with(b"data: [DONE]\n\n"), "{other:?}");
        }
    }

    #[tokio::test]
    async fn a_waiting_stream_comments_at_once_and_ends_with_its_error_and_done() {
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        let answer: Pending = Box::pin(async move {
            told.await.unwrap();
            Err(ApiError::deadline_exceeded())
        });
        let mut events = Events::waiting(answer, Instant::now() + Duration::from_secs(60));
        assert_eq!(events.next().await.unwrap(), ": waiting\n\n");
        tell.send(()).unwrap();
        let end = String::from_utf8(events.next().await.unwrap().to_vec()).unwrap();
        assert!(end.starts_with("data: {\"error\":{") && end.ends_with("\n\ndata: [DONE]\n\n"), "{end}");
        assert_eq!(events.next().await, None);
    }
}
