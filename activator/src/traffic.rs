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

/// The model that a request was for: an extension of its answer.
#[derive(Clone, Debug)]
pub struct Asked(pub Arc<Route>);

impl Watch {
    /// Counts there, and asks that whether we drain.
    pub fn new(metrics: Metrics, readiness: Readiness) -> Self {
        Self { metrics, readiness }
    }
}

/// Answers a probe at once; [`watch`]es everything else.
pub async fn receive(watching: State<Watch>, request: Request, next: Next) -> Response {
    match probes::answer_at_once(&watching.readiness, &request) {
        Some(answer) => answer,
        None => watch(watching, request, next).await,
    }
}

/// Lets a request through and looks at its answer.
pub async fn watch(State(watch): State<Watch>, request: Request, next: Next) -> Response {
    let version = request.version();
    let probe = probes::is_own_path(&request);
    let mut response = next.run(request).await;
    if !probe {
        match response.extensions().get::<Asked>() {
            Some(Asked(route)) => route.counts(&watch.metrics).answered(response.status()),
            None => watch.metrics.unrouted(response.status()),
        }
    }
    if watch.readiness.draining() && version <= Version::HTTP_11 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
