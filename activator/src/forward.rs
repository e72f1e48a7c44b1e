//! One request's way to a runtime and its answer's way back to the first byte.
//!
//! **Invariant:** a request is asked again, once, of a new runtime if the first died before any byte of an answer; never
//! after one. Its place is held from admission to the answer's last byte.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Uri, header::CONTENT_TYPE, response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use protocol::{
    ApiError, ErrorKind,
    timings::{SEED_HEADER, WAKE_HEADER},
};

use crate::{
    answers,
    body::Read,
    endpoint::Unanswered,
    headers,
    hold::{Gate, Grant, Ticket},
    scaler::SlotId,
};

/// Runtimes that one request is asked of at most.
const ATTEMPTS_MAX: usize = 2;

/// A request to be forwarded.
#[derive(Debug)]
pub struct Forward {
    /// The way in.
    pub gate: Gate,
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
    /// When the request arrived.
    pub arrived: Instant,
}

/// An answer of which the first bytes are there.
#[derive(Debug)]
pub struct Answer {
    /// Status and headers.
    pub head: response::Parts,
    first: Option<Bytes>,
    rest: Incoming,
    _ticket: Ticket,
}

impl Forward {
    /// Waits for the runtime, asks it, and waits for the first byte of its answer's body.
    pub async fn answer(self) -> Result<Answer, ApiError> {
        let mut lost = None;
        for _ in 0..ATTEMPTS_MAX {
            let admitted = self.gate.admit(self.slot, lost).await;
            let admitted = admitted.map_err(|refusal| answers::refusal(&self.model, refusal))?;
            match self.ask(&admitted.grant).await {
                Ok((head, first, rest)) => return Ok(Answer { head, first, rest, _ticket: admitted.ticket }),
                Err(Unanswered::RequestLost(error)) => {
                    tracing::warn!(model = self.model, %error, "a runtime gave up a request");
                    return Err(unavailable(&self.model, "gave up this request"));
                }
                Err(Unanswered::ConnectionLost(error)) => {
                    tracing::warn!(model = self.model, %error, "a runtime was lost before it answered");
                    lost = Some(admitted.grant.launch);
                }
            }
        }
        Err(unavailable(&self.model, "died while it worked on this request, twice"))
    }

    async fn ask(&self, grant: &Grant) -> Result<(response::Parts, Option<Bytes>, Incoming), Unanswered> {
        let answer = grant.endpoint.ask(self.request(grant)).await?;
        let (head, mut rest) = answer.into_parts();
        let first = next_data(&mut rest).await.transpose().map_err(Unanswered::sort)?;
        Ok((head, first, rest))
    }

    fn request(&self, grant: &Grant) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.body.bytes.clone()));
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
        request.headers_mut().insert(WAKE_HEADER, HeaderValue::from_str(&wake).expect("JSON of numbers is ASCII"));
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

    /// The next bytes of the body.
    pub async fn next(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        match self.first.take() {
            Some(first) => Some(Ok(first)),
            None => next_data(&mut self.rest).await,
        }
    }
}
