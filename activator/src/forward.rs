//! One request's way to a runtime and its answer's way back.
//!
//! **Invariant:** a runtime's death is no client's matter. A request whose runtime died before any byte of an answer, or in the middle of a
//! stream, is asked again of the next, of a stream what has not been seen ([`Trail`]); but one in whose company runtimes died twice is given
//! up, as it may be their poison, and so is one whose guests keep something and may not see it twice. What somebody outside ends with SIGKILL died of no request. Its place is held from admission to the answer's last byte, as the runtime sends it.

use std::{
    borrow::Cow,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, header::CONTENT_TYPE, response};
use opentelemetry::TraceId;
use protocol::{
    ApiError, ErrorKind,
    resume::{AnswerKey, IS_BROKEN, Past, Trail},
    steps::Steps,
    timings::Wake,
};
use tracing::field::DisplayValue;

use crate::{
    account::Tokens,
    answers,
    body::Read,
    endpoint::{Answering, Ask, Ours, Unanswered},
    headers::{self, Told},
    hold::{Admitted, Gate, Grant, Ticket},
    metrics::ModelCounts,
    pace::Pace,
    settings::Route,
    slot::{Claim, LaunchId, Refusal},
    timers::Timers,
    traces::{Step, Trace},
};

/// Runtimes that may die while they work on one request.
const DEATHS_MAX: u32 = 1;
/// Runtimes that others may end while they work on one request; who ends more of them may have a reason that the kernel does not tell.
const KILLS_MAX: u32 = 16;
/// Runtimes that one request is asked of at most, those included that were told to end.
const LIVES_MAX: u32 = 64;

/// After this time a runtime that is being left is known to be.
const LEAVING: Duration = Duration::from_millis(5);

/// A request to be forwarded.
#[derive(Debug)]
pub struct Forward {
    /// The way in.
    pub gate: Gate,
    /// Where it is counted what it goes through.
    pub counts: Arc<ModelCounts>,
    /// Which model.
    pub route: Arc<Route>,
    /// The path.
    pub path: &'static str,
    /// The client's headers, already fit for the runtime.
    pub headers: HeaderMap,
    /// The client's bytes, as they came.
    pub body: Read,
    /// The generator's key for all attempts, where the client names none.
    pub seed: Option<u64>,
    /// Who its answer is.
    pub key: AnswerKey,
    /// For its deadline.
    pub timers: Timers,
    /// Its place among those who wait.
    pub claim: Claim,
    /// Whose keys and values it may share.
    pub scope: Option<u128>,
    /// Where it is told what it uses.
    pub tokens: Arc<Tokens>,
    /// Where it is traced what it goes through.
    pub trace: Option<Arc<Trace>>,
    /// Runtimes that died while they worked on it.
    pub deaths: u32,
    /// Runtimes that others ended meanwhile.
    pub kills: u32,
    /// When the request arrived.
    pub arrived: Instant,
    /// What it went through before the first runtime was asked; `None` until then.
    pub wake: Option<Wake>,
    /// When it is given up.
    pub deadline: tokio::time::Instant,
}

/// An answer of which the first bytes are there.
#[derive(Debug)]
pub struct Answer {
    /// Status and headers.
    pub head: response::Parts,
    first: Option<Bytes>,
    rest: Answering,
    /// To be asked again, should the runtime be lost.
    forward: Box<Forward>,
    grant: Grant,
    asked: Option<Step>,
    /// When the first byte of it was there.
    since: Instant,
    _ticket: Ticket,
}

/// Why a stream ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// With its runtime.
    Died,
    /// The runtime was told to end.
    Interrupted,
}

impl Lost {
    /// A runtime that was told to end and is gone did not die of anything.
    fn of(self, grant: &Grant) -> Self {
        if grant.leaving.load(Ordering::Acquire) { Self::Interrupted } else { self }
    }

    /// For metrics and traces.
    fn name(self) -> &'static str {
        match self {
            Self::Died => "died",
            Self::Interrupted => "interrupted",
        }
    }
}

impl Forward {
    /// Waits for the runtime, asks it, and waits for the first byte of its answer's body.
    pub async fn answer(self: Box<Self>) -> Result<Answer, ApiError> {
        self.within(None, &Trail::default()).await
    }

    async fn within(self: Box<Self>, lost: Option<LaunchId>, trail: &Trail) -> Result<Answer, ApiError> {
        let (deadline, timers) = (self.deadline, self.timers.clone());
        let answer = timers.within(deadline, self.attempts(lost, trail));
        answer.await.unwrap_or_else(|_| Err(ApiError::deadline_exceeded()))
    }

    // Boxed on its way: a request that is held should cost little.
    async fn attempts(mut self: Box<Self>, mut lost: Option<LaunchId>, trail: &Trail) -> Result<Answer, ApiError> {
        for _ in 0..LIVES_MAX {
            let suspect = self.deaths > DEATHS_MAX;
            let held = self.step("held");
            let admitted =
                self.gate.admit(self.route.slot, self.claim.clone(), (lost, suspect), self.wake.is_some()).await;
            let admitted = admitted.map_err(|refusal| self.refused(refusal))?;
            let grant = &admitted.grant;
            // Over from here on.
            held.inspect(|held| held.granted(grant));
            if grant.blameless && self.kills < KILLS_MAX {
                self.deaths = self.deaths.saturating_sub(1);
                self.kills += 1;
            }
            if self.wake.is_none() {
                let now = Instant::now();
                self.counts.held(now.saturating_duration_since(self.arrived));
                self.wake = Some(grant.times.wake(grant.cold, self.arrived, now));
            }
            let asked = self.step("ask");
            // Boxed, so that who is held does not have its size.
            let mut seen = true;
            let found = match Box::pin(self.ask(grant, trail, asked.as_ref())).await {
                Ok((head, first, rest)) => match Told::of(&head.headers) {
                    Told { interrupted: None, guests, .. } => {
                        self.tokens.went_through(guests.unwrap_or_default());
                        let since = Instant::now();
                        if trail.choices.is_empty() && head.status.is_success() {
                            self.counts.first_token(grant.cold, since.saturating_duration_since(self.arrived));
                        }
                        asked.iter().for_each(Step::first_token);
                        let (forward, Admitted { grant, ticket }) = (self, admitted);
                        return Ok(Answer { head, first, rest, forward, grant, asked, since, _ticket: ticket });
                    }
                    Told { interrupted: Some(why), .. } if why == IS_BROKEN.as_bytes() => Lost::Died,
                    Told { interrupted: Some(_), .. } => Lost::Interrupted,
                },
                Err(Unanswered::RequestLost(error)) => {
                    asked.inspect(|asked| asked.failed("gave_up"));
                    tracing::warn!(model = self.model(), trace_id = self.trace_id(), %error, "a runtime gave up a request");
                    return Err(unavailable(self.model(), "gave up this request"));
                }
                Err(Unanswered::ConnectionLost(error)) => {
                    tracing::warn!(model = self.model(), trace_id = self.trace_id(), %error, "a runtime was lost before it answered");
                    Lost::Died
                }
                Err(Unanswered::NotSent(error)) => {
                    tracing::warn!(model = self.model(), trace_id = self.trace_id(), %error, "a runtime was lost before it was asked");
                    seen = false;
                    Lost::Died
                }
            };
            let found = found.of(grant);
            asked.inspect(|asked| asked.failed(found.name()));
            self.count(found);
            if seen && self.is_counted(grant) {
                return Err(self.shown_once());
            }
            lost = (found == Lost::Died).then_some(grant.launch);
            drop(admitted);
            if found == Lost::Interrupted {
                tokio::time::sleep(LEAVING).await;
            }
        }
        Err(unavailable(self.model(), "was told to end again and again"))
    }

    /// One more runtime was lost. Whether a request is to blame is known when the next one is there.
    fn count(&mut self, lost: Lost) {
        self.deaths += u32::from(lost == Lost::Died);
        self.counts.lost(lost.name());
    }

    /// Guests of this runtime may have seen it, and keep something of it.
    fn is_counted(&self, grant: &Grant) -> bool {
        grant.once.load(Ordering::Acquire) && matches!(self.path, "/v1/chat/completions" | "/v1/completions")
    }

    /// Its runtime is lost, and its guests may have seen it.
    fn shown_once(&self) -> ApiError {
        self.counts.lost("given_up");
        let trace_id = self.trace_id();
        tracing::warn!(model = self.model(), answer = %self.key, trace_id, "a request is given up: its guests keep something and are not replayable");
        let what = "was lost with this request, and its guests may have counted it: it is not asked again by itself";
        ApiError { code: Some("not_replayable".into()), ..unavailable(self.model(), what) }
    }

    fn refused(&self, refusal: Refusal) -> ApiError {
        if refusal == Refusal::Poison {
            self.counts.lost("given_up");
            let trace_id = self.trace_id();
            tracing::error!(model = self.model(), answer = %self.key, trace_id, "a request is given up: runtimes died of it, or beside it, twice");
        }
        answers::refusal(self.model(), refusal)
    }

    async fn ask(
        &self,
        grant: &Grant,
        trail: &Trail,
        asked: Option<&Step>,
    ) -> Result<(response::Parts, Option<Bytes>, Answering), Unanswered> {
        let (head, mut rest) = grant.endpoint.ask(&self.to_ask(trail, asked)).await?;
        let told = Told::of(&head.headers);
        told.used().into_iter().for_each(|used| self.tokens.said(used));
        if let Some((asked, steps)) = asked.zip(told.steps()) {
            asked.told(self.model(), &steps, self.tokens.known());
        }
        let first = rest.next().await.transpose()?;
        Ok((head, first, rest))
    }

    /// Its model's name, for errors and log lines.
    fn model(&self) -> &str {
        &self.route.card.id
    }

    /// A part of what it goes through begins, where that is traced.
    fn step(&self, name: &'static str) -> Option<Step> {
        self.trace.as_ref()?.step(name)
    }

    /// For log lines, where there are traces.
    fn trace_id(&self) -> Option<DisplayValue<TraceId>> {
        self.trace.as_ref().map(|trace| tracing::field::display(trace.id()))
    }

    fn to_ask(&self, trail: &Trail, asked: Option<&Step>) -> Ask<'_> {
        let headers = match &self.trace {
            None => Cow::Borrowed(&self.headers),
            Some(trace) => {
                let mut headers = self.headers.clone();
                trace.tell(asked, &mut headers);
                Cow::Owned(headers)
            }
        };
        let in_front = (*trail != Trail::default()).then(|| Bytes::from(trail.json()));
        let wake = self.wake.unwrap_or_default();
        let ours = Ours { wake, key: self.key, scope: self.scope, seed: self.seed };
        Ask { path: self.path, headers, ours, in_front, body: &self.body.bytes }
    }
}

fn unavailable(model: &str, what: &str) -> ApiError {
    ApiError::new(ErrorKind::Unavailable, format!("The runtime of the model '{model}' {what}.")).retry_after(1)
}

impl Answer {
    /// Whether it is a stream of events.
    pub fn is_events(&self) -> bool {
        let events = |kind: &str| kind.starts_with(protocol::sse::CONTENT_TYPE);
        self.head.status.is_success() && headers::text(&self.head.headers, CONTENT_TYPE).is_some_and(events)
    }

    /// Its first bytes are all of its body. False, too, where that is not known yet.
    pub fn is_whole(&self) -> bool {
        self.rest.is_over()
    }

    /// Its first bytes. Nothing more is wanted of the runtime, and its place is given back.
    pub fn into_first(self) -> Bytes {
        self.first.unwrap_or_default()
    }

    /// What its tokens depend on; `None` where it cannot go on in another runtime.
    pub fn identity(&self) -> Option<&str> {
        Told::of(&self.head.headers).identity
    }

    /// The next bytes of the body.
    pub async fn next(&mut self) -> Option<Result<Bytes, Unanswered>> {
        match self.first.take() {
            Some(first) => Some(Ok(first)),
            None => self.rest.next().await,
        }
    }

    /// What is still to come, from another runtime. The place of this answer is given back first.
    pub async fn go_on(self, lost: Lost, trail: Trail) -> Result<Answer, ApiError> {
        let Self { mut forward, grant, asked, _ticket: ticket, rest, .. } = self;
        drop((rest, ticket));
        let lost = lost.of(&grant);
        asked.inspect(|asked| asked.failed(lost.name()));
        forward.count(lost);
        let trace_id = forward.trace_id();
        tracing::info!(model = forward.model(), answer = %forward.key, trace_id, ?lost, "an answer goes on in another runtime");
        forward.within((lost == Lost::Died).then_some(grant.launch), &trail).await
    }

    /// For its deadline.
    pub fn timers(&self) -> Timers {
        self.forward.timers.clone()
    }

    /// A stream's pace, from here on.
    pub fn pace(&self) -> Pace {
        Pace::new(self.forward.counts.inter_token())
    }

    /// So many tokens have been passed on.
    pub fn passed_on(&self, trail: &Trail) {
        // Of text that guests may have changed, the end says what it comes to.
        let exact = !trail.choices.is_empty() && trail.choices.iter().all(|past| past.said.is_some());
        self.forward.tokens.passed_on(trail.choices.iter().map(Past::counted).sum(), exact);
    }

    /// The runtime has said when it did what; all that it has used was passed on.
    pub fn told(&self, steps: &Steps) {
        if let Some(asked) = &self.asked {
            asked.told(self.forward.model(), steps, self.forward.tokens.known());
        }
    }

    /// For log lines.
    pub fn trace_id(&self) -> Option<DisplayValue<TraceId>> {
        self.forward.trace_id()
    }

    /// Notes how long it took so far.
    pub fn clock(&self, trail: &mut Trail) {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        if trail.first_token_ms == 0.0 {
            trail.first_token_ms = ms(self.since.saturating_duration_since(self.forward.arrived));
        }
        trail.predicted_ms += ms(self.since.elapsed());
    }
}
