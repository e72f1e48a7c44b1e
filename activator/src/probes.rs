//! Liveness, readiness, and Knative's probes: answered at once, from memory, on either port.
//!
//! **Invariant:** no probe wakes a model, waits for a runtime, or counts as traffic. Ready means: can hold.

use axum::{Router, extract::State, response::Response, routing::get};
use http::{HeaderMap, HeaderName, Request, StatusCode, header::USER_AGENT};
use tokio::sync::watch;

use crate::{answers, headers};

/// Knative's own probe: a header on any path. The answer is expected to repeat its value.
static NETWORK_PROBE: HeaderName = HeaderName::from_static("k-network-probe");

/// Whether new requests should still be sent here. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Readiness {
    draining: watch::Receiver<bool>,
}

impl Readiness {
    /// Ready until the sender says that we drain.
    pub fn new(draining: watch::Receiver<bool>) -> Self {
        Self { draining }
    }

    /// Whether the end has begun.
    pub fn draining(&self) -> bool {
        *self.draining.borrow()
    }

    fn answer(&self, ready: &'static str) -> Response {
        if self.draining() {
            answers::typed(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "draining\n")
        } else {
            answers::typed(StatusCode::OK, "text/plain", ready)
        }
    }
}

/// `/livez` and `/readyz`.
pub fn router(readiness: Readiness) -> Router {
    Router::new()
        .route("/livez", get(async || answers::typed(StatusCode::OK, "text/plain", "alive\n")))
        .route("/readyz", get(async |State(readiness): State<Readiness>| readiness.answer("ready\n")))
        .with_state(readiness)
}

/// The answer to a probe on whatever path; `None` for everything else, [`router`]'s paths included.
pub fn answer_at_once<B>(readiness: &Readiness, request: &Request<B>) -> Option<Response> {
    match headers::text(request.headers(), &NETWORK_PROBE) {
        Some("queue") => Some(readiness.answer("queue")),
        Some(_) => Some(answers::typed(StatusCode::BAD_REQUEST, "text/plain", "unexpected probe\n")),
        None if from_kubelet(request.headers()) && !is_own_path(request) => Some(readiness.answer("ready\n")),
        None => None,
    }
}

fn from_kubelet(headers: &HeaderMap) -> bool {
    headers::text(headers, USER_AGENT).is_some_and(|agent| agent.starts_with("kube-probe/"))
}

/// Whether it asks for one of [`router`]'s paths.
pub fn is_own_path<B>(request: &Request<B>) -> bool {
    matches!(request.uri().path(), "/livez" | "/readyz")
}
