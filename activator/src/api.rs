//! The API port: OpenAI's paths.
//!
//! **Invariant:** a request is checked whole before it can wake a model; reading what is here wakes none.

use std::{
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    response::Response,
    routing::{get, post},
};
use futures_util::stream;
use http::{HeaderMap, StatusCode};
use protocol::{
    ApiError, ErrorKind, Generate,
    answer::{ModelCard, ModelList},
    deadline,
    resume::AnswerKey,
};

use crate::{
    answers,
    body::Bodies,
    events::{Events, Pending},
    forward::{Answer, Forward},
    headers,
    hold::Gate,
    metrics::Metrics,
    probes::{self, Readiness},
    scaler::SlotId,
    traffic,
};

/// What every handler needs.
#[derive(Debug)]
pub struct Api {
    /// In the order of the slots.
    pub models: Vec<ModelCard>,
    /// The way in.
    pub gate: Gate,
    /// Where it is counted what becomes of requests.
    pub metrics: Metrics,
    /// The memory of bodies.
    pub bodies: Bodies,
    /// A request's deadline where it names none.
    pub timeout: Duration,
    /// A held streaming request gets its headers after this time.
    pub early_headers_after: Duration,
}

/// What routing needs of a checked request.
struct Wanted {
    /// `None` is the only model.
    model: Option<String>,
    stream: bool,
    /// It is sampled for, and names no seed.
    needs_seed: bool,
}

impl Wanted {
    fn generated(asked: Generate) -> Self {
        Self { model: Some(asked.model), stream: asked.stream, needs_seed: asked.seed.is_none() }
    }

    fn computed(model: Option<String>) -> Self {
        Self { model, stream: false, needs_seed: false }
    }
}

type Check = fn(&[u8]) -> Result<Wanted, ApiError>;

/// Every path of the API port.
pub fn router(api: Arc<Api>, readiness: Readiness) -> Router {
    let metrics = api.metrics.clone();
    let names = api.models.iter().map(|card| card.id.clone()).collect();
    Router::new()
        .route("/v1/chat/completions", post(|api, request| answer(api, request, "/v1/chat/completions", chat)))
        .route("/v1/completions", post(|api, request| answer(api, request, "/v1/completions", completion)))
        .route("/v1/embeddings", post(|api, request| answer(api, request, "/v1/embeddings", embeddings)))
        .route("/tokenize", post(|api, request| answer(api, request, "/tokenize", tokenize)))
        .route("/detokenize", post(|api, request| answer(api, request, "/detokenize", detokenize)))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .with_state(api)
        .merge(probes::router(readiness.clone()))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::middleware::from_fn_with_state(
            traffic::Watch::new(names, metrics, readiness.clone()),
            traffic::watch,
        ))
        .layer(axum::middleware::from_fn_with_state(readiness, probes::answer_at_once))
}

/// The chat's path alone, under another name, answered and counted as on the API port.
pub fn chat_at(path: &str, api: Arc<Api>, readiness: Readiness) -> Router {
    let (metrics, names) = (api.metrics.clone(), api.models.iter().map(|card| card.id.clone()).collect());
    let watch = traffic::Watch::new(names, metrics, readiness);
    Router::new()
        .route(path, post(|api, request| answer(api, request, "/v1/chat/completions", chat)))
        .with_state(api)
        .layer(axum::middleware::from_fn_with_state(watch, traffic::watch))
}

fn chat(body: &[u8]) -> Result<Wanted, ApiError> {
    Ok(Wanted::generated(protocol::parse_chat(body)?.generate))
}

fn completion(body: &[u8]) -> Result<Wanted, ApiError> {
    Ok(Wanted::generated(protocol::parse_completion(body)?.generate))
}

fn embeddings(body: &[u8]) -> Result<Wanted, ApiError> {
    Ok(Wanted::computed(Some(protocol::parse_embeddings(body)?.model)))
}

fn tokenize(body: &[u8]) -> Result<Wanted, ApiError> {
    Ok(Wanted::computed(protocol::parse_tokenize(body)?.model))
}

fn detokenize(body: &[u8]) -> Result<Wanted, ApiError> {
    Ok(Wanted::computed(protocol::parse_detokenize(body)?.model))
}

async fn answer(State(api): State<Arc<Api>>, request: Request, path: &'static str, check: Check) -> Response {
    match api.answer(request, path, check).await {
        Ok(response) => response,
        Err(error) => answers::error(&error),
    }
}

async fn models(State(api): State<Arc<Api>>) -> Response {
    answers::json(&ModelList::new(api.models.clone()))
}

async fn model(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Response {
    match api.slot(Some(&id)) {
        Ok(slot) => answers::json(&api.models[slot.0]),
        Err(error) => answers::error(&error),
    }
}

async fn not_found(request: Request) -> Response {
    let message = format!("There is no path {}.", request.uri().path());
    answers::error(&ApiError::new(ErrorKind::NotFound, message))
}

async fn wrong_method(request: Request) -> Response {
    let message = format!("The path {} does not take {}.", request.uri().path(), request.method());
    answers::error(&ApiError::new(ErrorKind::MethodNotAllowed, message))
}

impl Api {
    /// Errors before the model is known are returned, later ones are responses that carry its slot.
    async fn answer(&self, request: Request, path: &'static str, check: Check) -> Result<Response, ApiError> {
        let arrived = Instant::now();
        let (head, body) = request.into_parts();
        let deadline = tokio::time::Instant::from_std(arrived + self.timeout(&head.headers)?);
        let read = tokio::time::timeout_at(deadline, self.bodies.read(&head.headers, body));
        let body = read.await.map_err(|_| ApiError::deadline_exceeded())??;
        let wanted = check(&body.bytes)?;
        let slot = self.slot(wanted.model.as_deref())?;
        let forward = Forward {
            gate: self.gate.clone(),
            metrics: self.metrics.clone(),
            slot,
            model: self.models[slot.0].id.clone(),
            path,
            headers: headers::to_runtime(head.headers, head.uri.authority()),
            body,
            seed: wanted.needs_seed.then(|| RandomState::new().hash_one(slot.0)),
            key: AnswerKey::new(SystemTime::now()),
            deaths: 0,
            wake: None,
            arrived,
            deadline,
        };
        let answer = if wanted.stream {
            self.stream(forward, deadline).await
        } else {
            forward.answer().await.map(|answer| respond(answer, deadline))
        };
        let mut response = answer.unwrap_or_else(|error| answers::error(&error));
        response.extensions_mut().insert(slot);
        Ok(response)
    }

    /// The runtime's own headers if they come soon, else ours.
    async fn stream(&self, forward: Forward, deadline: tokio::time::Instant) -> Result<Response, ApiError> {
        let early = tokio::time::Instant::from_std(forward.arrived + self.early_headers_after);
        let mut answer: Pending = Box::pin(forward.answer());
        match tokio::time::timeout_at(early, &mut answer).await {
            Ok(answer) => Ok(respond(answer?, deadline)),
            Err(_) => {
                let body = Events::waiting(answer, deadline).into_body();
                let mut response = answers::typed(StatusCode::OK, protocol::sse::CONTENT_TYPE, body);
                let no_cache = http::HeaderValue::from_static("no-cache");
                response.headers_mut().insert(http::header::CACHE_CONTROL, no_cache);
                Ok(response)
            }
        }
    }

    /// The model's place; the only one if the request may leave the name out and does.
    fn slot(&self, name: Option<&str>) -> Result<SlotId, ApiError> {
        let name = match (name, self.models.as_slice()) {
            (Some(name), _) => name,
            (None, [_only]) => return Ok(SlotId(0)),
            (None, _) => return Err(ApiError::field("model", "is required, since there is more than one model")),
        };
        let slot = self.models.iter().position(|card| card.id == name).map(SlotId);
        slot.ok_or_else(|| {
            let mut error = ApiError::model_not_found(name);
            error.message.push_str(" GET /v1/models lists those that do.");
            error
        })
    }

    fn timeout(&self, headers: &HeaderMap) -> Result<Duration, ApiError> {
        let asked = headers.get(deadline::TIMEOUT_HEADER);
        asked.map_or(Ok(self.timeout), |value| deadline::timeout(value.as_bytes()))
    }
}

/// The runtime's answer as ours: its status, its headers, its bytes as they come.
fn respond(answer: Answer, deadline: tokio::time::Instant) -> Response {
    let (status, headers) = (answer.head.status, headers::to_client(answer.head.headers.clone()));
    let body =
        if answer.is_events() { Events::relaying(answer, deadline).into_body() } else { plain(answer, deadline) };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A body that breaks off, visibly, if the runtime dies or the deadline passes.
fn plain(answer: Answer, deadline: tokio::time::Instant) -> Body {
    Body::from_stream(stream::try_unfold(answer, move |mut answer| async move {
        let next = tokio::time::timeout_at(deadline, answer.next()).await;
        let data = next.map_err(|_| axum::Error::new(ApiError::deadline_exceeded()))?;
        let data = data.transpose().map_err(axum::Error::new)?;
        Ok::<_, axum::Error>(data.map(|data| (data, answer)))
    }))
}
