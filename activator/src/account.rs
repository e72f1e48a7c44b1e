//! One request's account, from being let in to its answer's last byte: what its tenant is charged, and its line in the audit.
//!
//! **Invariant:** RAII. However a request ends (answered, refused, its client gone), dropping its [`Account`] closes it once.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http_body::{Frame, SizeHint};
use protocol::{resume::AnswerKey, usage::Used};

use crate::{
    audit::{Line, Room},
    headers,
    metrics::{Metrics, ModelCounts},
    settings::Route,
    tenants::{Caller, quota::Place},
    traces::Trace,
};

/// What a client gets that left before it was answered (nginx's word for it).
const CLIENT_LEFT: u16 = 499;

/// What runtimes say of an answer as it becomes known: tokens, and guests. Shared with whoever relays the answer.
#[derive(Debug, Default)]
pub struct Tokens {
    prompt: AtomicU64,
    completion: AtomicU64,
    /// Of the prompt, while nothing has been said.
    expected: AtomicU64,
    /// Digests of the guests that it went through.
    guests: Mutex<String>,
}

/// Bytes of a request for each token of its prompt, about.
const BYTES_A_TOKEN: u64 = 4;

impl Tokens {
    /// A runtime is about to be asked, with so many bytes. Who leaves before it says what that took is charged for as much as that may be.
    pub fn expect(&self, bytes: usize) {
        self.expected.store(bytes as u64 / BYTES_A_TOKEN, Ordering::Relaxed);
    }

    /// What a quota is charged.
    fn charged(&self) -> u64 {
        let said = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let prompt = said(&self.prompt);
        (if prompt == 0 { said(&self.expected) } else { prompt }) + said(&self.completion)
    }

    /// What a runtime said. One that goes on with an answer says the same of its prompt.
    pub fn said(&self, used: Used) {
        // It has counted, whatever it came to.
        self.expected.store(0, Ordering::Relaxed);
        self.prompt.fetch_max(used.prompt.into(), Ordering::Relaxed);
        self.completion.fetch_max(used.completion.into(), Ordering::Relaxed);
    }

    /// What is answered went through these guests; none, where it is empty.
    pub fn went_through(&self, digests: &str) {
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        if *guests != digests {
            digests.clone_into(&mut guests);
        }
    }

    /// What is known now.
    pub fn known(&self) -> Used {
        let said = |count: &AtomicU64| u32::try_from(count.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        Used { prompt: said(&self.prompt), completion: said(&self.completion) }
    }

    /// So many tokens of the answer have been passed on in all; `exact`: it is over, and so many are counted, whatever was said before.
    pub fn passed_on(&self, tokens: u64, exact: bool) {
        match exact {
            true => self.completion.store(tokens, Ordering::Relaxed),
            false => drop(self.completion.fetch_max(tokens, Ordering::Relaxed)),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct Account {
    caller: Caller,
    line: Line,
    room: Option<Room>,
    arrived: Instant,
    metrics: Metrics,
    /// Its model's, once that is known.
    counts: Option<Arc<ModelCounts>>,
    /// Told as the answer comes.
    pub tokens: Arc<Tokens>,
    /// Where there are traces.
    pub trace: Option<Arc<Trace>>,
    _place: Option<Place>,
}

impl Account {
    /// A request that is let in. `room` is there where there is an audit.
    pub fn open(
        caller: Caller,
        place: Option<Place>,
        room: Option<Room>,
        (key, path): (&AnswerKey, &'static str),
        arrived: Instant,
        metrics: Metrics,
    ) -> Self {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let line = Line {
            id: format!("{:032x}", key.id),
            at_ms: at.as_millis() as u64,
            tenant: caller.name().to_owned(),
            by: caller.by.clone(),
            path: path.to_owned(),
            status: CLIENT_LEFT,
            ..Line::default()
        };
        Self { caller, line, room, arrived, metrics, counts: None, tokens: Arc::default(), trace: None, _place: place }
    }

    /// Who asked.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Which model is asked.
    pub fn of(&mut self, route: &Route) {
        self.counts = Some(route.counts(&self.metrics).clone());
        self.line.model.clone_from(&route.card.id);
        self.line.digest = route.digest.clone().unwrap_or_default();
    }

    /// The same answer; the account is closed when the last of it has left, or is dropped.
    pub fn watch(mut self, response: Response) -> Response {
        self.line.status = response.status().as_u16();
        let length = headers::text(response.headers(), CONTENT_LENGTH).and_then(|length| length.parse().ok());
        response.map(|body| {
            self.line.complete = http_body::Body::is_end_stream(&body);
            Body::new(Accounted { body, length, passed: 0, account: self })
        })
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let tokens = |count: &AtomicU64| count.load(Ordering::Relaxed);
        self.line.prompt_tokens = tokens(&self.tokens.prompt);
        self.line.completion_tokens = tokens(&self.tokens.completion);
        self.line.guests = self.tokens.guests.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.line.took_ms = self.arrived.elapsed().as_millis() as u64;
        // Who was refused has used nothing.
        let refused = self.line.complete && !(200..300).contains(&self.line.status);
        self.caller.used(if refused { 0 } else { self.tokens.charged() });
        self.metrics.answered(&self.caller, self.line.status);
        if let Some(counts) = &self.counts {
            counts.used(&self.caller, self.tokens.known());
        }
        if let Some(trace) = &self.trace {
            trace.end(&self.line);
        }
        if let Some(room) = self.room.take() {
            room.write(std::mem::take(&mut self.line));
        }
    }
}

/// A body with its account.
struct Accounted {
    body: Body,
    /// As announced: a body is not asked for more than that.
    length: Option<u64>,
    passed: u64,
    account: Account,
}

impl http_body::Body for Accounted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(None) => self.account.line.complete = true,
            Poll::Ready(Some(Ok(frame))) => {
                self.passed += frame.data_ref().map_or(0, Bytes::len) as u64;
                self.account.line.complete = self.body.is_end_stream() || self.length == Some(self.passed);
            }
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
