//! One request's way to a runtime and its answer's way back.
//!
//! **Invariant:** a runtime's death is no client's matter. A request whose runtime died before any byte of an answer, or in the middle of a
//! stream, is asked again of the next, of a stream what has not been seen ([`Trail`]); but one in whose company runtimes died twice is given
//! up, as it may be their poison. Its place is held from admission to the answer's last byte.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Uri, header::CONTENT_TYPE, response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use protocol::{
    ApiError, ErrorKind,
    resume::{ANSWER_HEADER, AnswerKey, IDENTITY_HEADER, INTERRUPTED_HEADER, RESUME_HEADER, Trail},
    timings::{SEED_HEADER, WAKE_HEADER},
};

use crate::{
    answers,
    body::Read,
    endpoint::Unanswered,
    headers,
    hold::{Gate, Grant, Ticket},
    metrics::Metrics,
    scaler::SlotId,
    slot::LaunchId,
};

/// Runtimes that may die while they work on one request.
const DEATHS_MAX: u32 = 1;
/// Runtimes that one request is asked of at most, those included that were told to end.
const LIVES_MAX: u32 = 64;

/// After this time a runtime that is being left is known to be.
const LEAVING: Duration = Duration::from_millis(5);

/// A request to be forwarded.
#[derive(Debug)]
pub struct Forward {
    /// The way in.
    pub gate: Gate,
    /// Where losses are counted.
    pub metrics: Metrics,
    /// Which model.
    pub slot: SlotId,
    /// Its name, for errors.
    pub model: String,
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
    /// Runtimes that died while they worked on it.
    pub deaths: u32,
    /// When the request arrived.
    pub arrived: Instant,
    /// When it is given up.
    pub deadline: tokio::time::Instant,
}

/// An answer of which the first bytes are there.
#[derive(Debug)]
pub struct Answer {
    /// Status and headers.
    pub head: response::Parts,
    first: Option<Bytes>,
    rest: Incoming,
    /// To be asked again, should the runtime be lost.
    forward: Box<Forward>,
    launch: LaunchId,
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

impl Forward {
    /// Waits for the runtime, asks it, and waits for the first byte of its answer's body.
    pub async fn answer(self) -> Result<Answer, ApiError> {
        self.within(None, &Trail::default()).await
    }

    async fn within(self, lost: Option<LaunchId>, trail: &Trail) -> Result<Answer, ApiError> {
        let deadline = self.deadline;
        let answer = tokio::time::timeout_at(deadline, self.attempts(lost, trail));
        answer.await.unwrap_or_else(|_| Err(ApiError::deadline_exceeded()))
    }

    async fn attempts(mut self, mut lost: Option<LaunchId>, trail: &Trail) -> Result<Answer, ApiError> {
        for _ in 0..LIVES_MAX {
            let admitted = self.gate.admit(self.slot, lost).await;
            let admitted = admitted.map_err(|refusal| answers::refusal(&self.model, refusal))?;
            let launch = admitted.grant.launch;
            match self.ask(&admitted.grant, trail).await {
                Ok((head, first, rest)) if !head.headers.contains_key(INTERRUPTED_HEADER) => {
                    let (forward, _ticket) = (Box::new(self), admitted.ticket);
                    return Ok(Answer { head, first, rest, forward, launch, _ticket });
                }
                Ok(_) => {
                    self.count(Lost::Interrupted)?;
                    lost = None;
                    drop(admitted);
                    tokio::time::sleep(LEAVING).await;
                }
                Err(Unanswered::RequestLost(error)) => {
                    tracing::warn!(model = self.model, %error, "a runtime gave up a request");
                    return Err(unavailable(&self.model, "gave up this request"));
                }
                Err(Unanswered::ConnectionLost(error)) => {
                    tracing::warn!(model = self.model, %error, "a runtime was lost before it answered");
                    self.count(Lost::Died)?;
                    lost = Some(launch);
                }
            }
        }
        Err(unavailable(&self.model, "was told to end again and again"))
    }

    /// One more runtime was lost.
    fn count(&mut self, lost: Lost) -> Result<(), ApiError> {
        self.deaths += u32::from(lost == Lost::Died);
        self.metrics.lost(&self.model, if lost == Lost::Died { "died" } else { "interrupted" });
        if self.deaths <= DEATHS_MAX {
            return Ok(());
        }
        self.metrics.lost(&self.model, "given_up");
        tracing::error!(model = self.model, answer = %self.key, "a request is given up: runtimes died of it, or beside it, twice");
        let message = format!("The runtime of the model '{}' died while it worked on this request, twice.", self.model);
        Err(ApiError::new(ErrorKind::Internal, message))
    }

    async fn ask(
        &self,
        grant: &Grant,
        trail: &Trail,
    ) -> Result<(response::Parts, Option<Bytes>, Incoming), Unanswered> {
        let answer = grant.endpoint.ask(self.request(grant, trail)).await?;
        let (head, mut rest) = answer.into_parts();
        let first = next_data(&mut rest).await.transpose().map_err(Unanswered::sort)?;
        Ok((head, first, rest))
    }

    fn request(&self, grant: &Grant, trail: &Trail) -> Request<Full<Bytes>> {
        let goes_on = *trail != Trail::default();
        let (in_front, body) = match goes_on {
            true => {
                let (in_front, bytes) = trail.in_front_of(&self.body.bytes);
                (in_front, Bytes::from(bytes))
            }
            false => (0, self.body.bytes.clone()),
        };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = Uri::builder()
            .scheme("http")
            .authority(headers::authority(&self.headers))
            .path_and_query(self.path)
            .build()
            .expect("the authority and our paths are well-formed");
        *request.headers_mut() = self.headers.clone();
        let wake = grant.times.wake(grant.cold, self.arrived, Instant::now());
        let wake = serde_json::to_string(&wake).expect("numbers serialise");
        let text = |text: &str| HeaderValue::from_str(text).expect("numbers and JSON of them are ASCII");
        request.headers_mut().insert(WAKE_HEADER, text(&wake));
        request.headers_mut().insert(ANSWER_HEADER, text(&self.key.to_string()));
        if goes_on {
            request.headers_mut().insert(RESUME_HEADER, in_front.into());
        }
        if let Some(seed) = self.seed {
            request.headers_mut().insert(SEED_HEADER, seed.into());
        }
        request
    }
}

fn unavailable(model: &str, what: &str) -> ApiError {
    ApiError::new(ErrorKind::Unavailable, format!("The runtime of the model '{model}' {what}.")).retry_after(1)
}

/// The next bytes; trailers are passed over.
async fn next_data(body: &mut Incoming) -> Option<Result<Bytes, hyper::Error>> {
    loop {
        match body.frame().await? {
            Ok(frame) => {
                if let Ok(data) = frame.into_data() {
                    return Some(Ok(data));
                }
            }
            Err(error) => return Some(Err(error)),
        }
    }
}

impl Answer {
    /// Whether it is a stream of events.
    pub fn is_events(&self) -> bool {
        let events = |kind: &str| kind.starts_with(protocol::sse::CONTENT_TYPE);
        self.head.status.is_success() && headers::text(&self.head.headers, CONTENT_TYPE).is_some_and(events)
    }

    /// What its tokens depend on; `None` where it cannot go on in another runtime.
    pub fn identity(&self) -> Option<&str> {
        headers::text(&self.head.headers, IDENTITY_HEADER)
    }

    /// The next bytes of the body.
    pub async fn next(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        match self.first.take() {
            Some(first) => Some(Ok(first)),
            None => next_data(&mut self.rest).await,
        }
    }

    /// What is still to come, from another runtime. The place of this answer is given back first.
    pub async fn go_on(self, lost: Lost, trail: Trail) -> Result<Answer, ApiError> {
        let Self { mut forward, launch, _ticket: ticket, rest, .. } = self;
        drop((rest, ticket));
        forward.count(lost)?;
        tracing::info!(model = forward.model, answer = %forward.key, ?lost, "an answer goes on in another runtime");
        forward.within((lost == Lost::Died).then_some(launch), &trail).await
    }
}
