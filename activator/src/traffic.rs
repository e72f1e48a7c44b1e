//! What is seen of every request that is no probe: its status class is counted, and during a drain its connection is
//! asked to close, so that clients go elsewhere without being cut. One layer: each costs a copy of the way behind it.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderValue, Version, header::CONNECTION};

use crate::{
    metrics::Metrics,
    probes::{self, Readiness},
    settings::Route,
};

/// What watching needs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Watch {
    metrics: Metrics,
    readiness: Readiness,
}

/// The model that a request was for, where that is known: an extension of its answer.
#[derive(Clone, Debug)]
pub struct Asked(pub Arc<Route>);

/// An answer, and the model that was asked for it.
pub type Answered = (Response, Option<Arc<Route>>);

impl Watch {
    /// Counts there, and asks that whether we drain.
    pub fn new(metrics: Metrics, readiness: Readiness) -> Self {
        Self { metrics, readiness }
    }

    /// Answers a probe at once; `None` for everything else.
    pub fn answer_at_once<B>(&self, request: &http::Request<B>) -> Option<Response> {
        probes::answer_at_once(&self.readiness, request)
    }

    /// What is to be known of a request when it is answered.
    pub fn look<B>(request: &http::Request<B>) -> Seen {
        Seen { version: request.version(), probe: probes::is_own_path(request) }
    }

    /// An answer is about to leave; `asked`: the model that it was asked of, where that is known.
    pub fn leave(&self, seen: Seen, mut response: Response, asked: Option<&Arc<Route>>) -> Response {
        if !seen.probe {
            match asked {
                Some(route) => route.counts(&self.metrics).answered(response.status()),
                None => self.metrics.unrouted(response.status()),
            }
        }
        if self.readiness.draining() && seen.version <= Version::HTTP_11 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// See [`Watch::look`].
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    version: Version,
    /// It asks for what is no traffic.
    probe: bool,
}

/// Answers probes in front of a router, and looks at the router's answers.
pub async fn receive(State(watch): State<Watch>, request: Request, next: Next) -> Response {
    match watch.answer_at_once(&request) {
        Some(answer) => answer,
        None => self::watch(State(watch), request, next).await,
    }
}

/// Looks at the answers of a router, and answers no probe.
pub async fn watch(State(watch): State<Watch>, request: Request, next: Next) -> Response {
    let seen = Watch::look(&request);
    let mut response = next.run(request).await;
    let asked = response.extensions_mut().remove::<Asked>();
    watch.leave(seen, response, asked.as_ref().map(|Asked(route)| route))
}
