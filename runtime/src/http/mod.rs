//! The OpenAI paths over HTTP: bytes ↔ protocol types ↔ [`Service`].
//!
//! **Invariant:** every answer that is not 2xx is an OpenAI error object. Requests that come before the model is ready
//! wait for it. Dropping a request, a response or a connection drops its choices and so cancels them.

mod body;
mod deadline;
mod embeddings;
mod generate;
mod refusal;
mod routes;
mod serve;
mod shape;
mod stream;
mod whole;

pub use serve::{CONNECTIONS_MAX, serve_sockets, serve_tcp};

use crate::service::Service;
use axum::{
    Router,
    middleware::from_fn,
    routing::{get, post},
};
use body::{Bodies, Tokenizing};
use protocol::{ApiError, ErrorKind};
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};

/// How far the process is.
#[derive(Clone)]
pub enum Phase {
    /// No model yet.
    Starting,
    /// Can produce a first token.
    Ready(Arc<Service>),
    /// Will not be ready any more.
    Failed(ApiError),
}

/// What handlers share.
#[derive(Clone)]
pub struct App {
    /// How far the process is.
    pub phase: watch::Receiver<Phase>,
    /// An activator is in front, and its wake header is believed.
    pub behind_activator: bool,
    /// The memory of bodies.
    pub bodies: Bodies,
    /// How much is tokenized at once.
    pub tokenizing: Tokenizing,
    /// Turns of understanding a form.
    pub forms: Arc<Semaphore>,
}

/// Forms that are understood at once. Some take most of a minute, and must not keep everybody's texts from being tokenized.
const FORMS_AT_ONCE: usize = 2;

impl App {
    /// Behind an activator, which bounds what it lets through and how long it waits.
    pub fn behind_activator(phase: watch::Receiver<Phase>) -> Self {
        Self::new(phase, true, Bodies::unbounded())
    }

    /// On a port of its own.
    pub fn alone(phase: watch::Receiver<Phase>) -> Self {
        Self::new(phase, false, Bodies::bounded())
    }

    fn new(phase: watch::Receiver<Phase>, behind_activator: bool, bodies: Bodies) -> Self {
        let forms = Arc::new(Semaphore::new(FORMS_AT_ONCE));
        Self { phase, behind_activator, bodies, tokenizing: Tokenizing::new(), forms }
    }

    /// The service, waited for.
    ///
    /// # Errors
    /// Why it failed.
    pub async fn service(&self) -> Result<Arc<Service>, ApiError> {
        let mut phase = self.phase.clone();
        match phase.wait_for(|p| !matches!(p, Phase::Starting)).await.as_deref() {
            Ok(Phase::Ready(service)) => Ok(service.clone()),
            Ok(Phase::Failed(e)) => Err(e.clone()),
            Ok(Phase::Starting) | Err(_) => Err(ApiError::new(ErrorKind::Unavailable, "the runtime is stopping")),
        }
    }

    /// The service, if it answers to this name.
    pub async fn model(&self, name: &str) -> Result<Arc<Service>, ApiError> {
        let service = self.service().await?;
        if service.model == name { Ok(service) } else { Err(ApiError::model_not_found(name)) }
    }
}

/// All paths.
pub fn router(app: App) -> Router {
    let behind_activator = app.behind_activator;
    let router = Router::new()
        .route("/v1/chat/completions", post(generate::chat))
        .route("/v1/completions", post(generate::completion))
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/v1/models", get(routes::models))
        .route("/v1/models/{*id}", get(routes::model))
        .route("/tokenize", post(routes::tokenize))
        .route("/detokenize", post(routes::detokenize))
        .route("/livez", get(routes::livez))
        .route("/readyz", get(routes::readyz))
        .method_not_allowed_fallback(routes::method_not_allowed)
        .fallback(routes::not_found)
        .with_state(app);
    if behind_activator { router } else { router.layer(from_fn(deadline::keep)) }
}
