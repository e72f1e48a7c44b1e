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
use http_body_util::Full;
use protocol::{resume::AnswerKey, usage::Used};

use crate::{
    audit::{Line, Room},
    headers,
    metrics::Metrics,
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
    key: AnswerKey,
    path: &'static str,
    room: Option<Room>,
    arrived: Instant,
    at: SystemTime,
    metrics: Metrics,
    /// Its model, once that is known.
    route: Option<Arc<Route>>,
    status: u16,
    /// All of the answer was sent.
    complete: bool,
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
        (arrived, at): (Instant, SystemTime),
        metrics: Metrics,
    ) -> Self {
        Self {
            caller,
            key: *key,
            path,
            room,
            arrived,
            at,
            metrics,
            route: None,
            status: CLIENT_LEFT,
            complete: false,
            tokens: Arc::default(),
            trace: None,
            _place: place,
        }
    }

    /// Who asked.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Which model is asked.
    pub fn of(&mut self, route: &Arc<Route>) {
        self.route = Some(route.clone());
    }

    /// The model that is asked, once that is known.
    pub fn route(&self) -> Option<&Arc<Route>> {
        self.route.as_ref()
    }

    /// The same answer; the account is closed when the last of it has left, or is dropped.
    pub fn watch(mut self, response: http::Response<Content>) -> Response {
        self.status = response.status().as_u16();
        let length = headers::text(response.headers(), CONTENT_LENGTH).and_then(|length| length.parse().ok());
        response.map(|body| {
            self.complete = http_body::Body::is_end_stream(&body);
            Body::new(Accounted { body, length, passed: 0, account: self })
        })
    }

    /// For who keeps or traces it.
    fn line(&self) -> Line {
        let at = self.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let used = self.tokens.known();
        let route = self.route.as_ref();
        Line {
            id: format!("{:032x}", self.key.id),
            at_ms: at.as_millis() as u64,
            tenant: self.caller.name().to_owned(),
            by: self.caller.by.clone().into_owned(),
            path: self.path.to_owned(),
            model: route.map_or_else(String::new, |route| route.card.id.clone()),
            digest: route.and_then(|route| route.digest.clone()).unwrap_or_default(),
            guests: self.tokens.guests.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            status: self.status,
            complete: self.complete,
            prompt_tokens: used.prompt.into(),
            completion_tokens: used.completion.into(),
            took_ms: self.arrived.elapsed().as_millis() as u64,
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // Who was refused has used nothing.
        let refused = self.complete && !(200..300).contains(&self.status);
        self.caller.used(if refused { 0 } else { self.tokens.charged() });
        self.metrics.answered(&self.caller, self.status);
        if let Some(route) = &self.route {
            route.counts(&self.metrics).used(&self.caller, self.tokens.known());
        }
        if self.trace.is_none() && self.room.is_none() {
            return;
        }
        let line = self.line();
        if let Some(trace) = &self.trace {
            trace.end(&line);
        }
        if let Some(room) = self.room.take() {
            room.write(line);
        }
    }
}

/// What is answered.
#[derive(Debug)]
pub enum Content {
    /// All of it is there.
    Whole(Full<Bytes>),
    /// It comes.
    Streamed(Body),
}

impl Content {
    /// Of an answer of our own.
    pub fn of(response: Response) -> http::Response<Self> {
        response.map(Self::Streamed)
    }
}

impl http_body::Body for Content {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Streamed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Streamed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Streamed(body) => body.size_hint(),
        }
    }
}

/// A body with its account.
struct Accounted {
    body: Content,
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
            Poll::Ready(None) => self.account.complete = true,
            Poll::Ready(Some(Ok(frame))) => {
                self.passed += frame.data_ref().map_or(0, Bytes::len) as u64;
                self.account.complete = self.body.is_end_stream() || self.length == Some(self.passed);
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
