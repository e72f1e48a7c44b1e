//! What is seen of every request that is no probe: its status class is counted, and during a drain its connection is
//! asked to close, so that clients go elsewhere without being cut.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderValue, Version, header::CONNECTION};

use crate::{
    metrics::{Metrics, NO_MODEL},
    probes::Readiness,
    scaler::SlotId,
};

/// What watching needs. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Watch {
    models: Arc<[String]>,
    metrics: Metrics,
    readiness: Readiness,
}

impl Watch {
    /// `models` in the order of the slots.
    pub fn new(models: Vec<String>, metrics: Metrics, readiness: Readiness) -> Self {
        Self { models: models.into(), metrics, readiness }
    }
}

/// Lets a request through and looks at its answer.
pub async fn watch(State(watch): State<Watch>, request: Request, next: Next) -> Response {
    let version = request.version();
    let probe = matches!(request.uri().path(), "/livez" | "/readyz");
    let mut response = next.run(request).await;
    if !probe {
        let model = response.extensions().get::<SlotId>().map_or(NO_MODEL, |slot| &watch.models[slot.0]);
        watch.metrics.request(model, response.status());
    }
    if watch.readiness.draining() && version <= Version::HTTP_11 {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
