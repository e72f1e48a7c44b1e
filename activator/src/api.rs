//! The API port: OpenAI's paths.
//!
//! **Invariant:** who asks is known before anything is read, and a request is checked whole before it can wake a model; reading what is here
//! wakes none.

use std::{
    borrow::Cow,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    response::Response,
    routing::{MethodRouter, get, post},
};
use futures_util::stream;
use http::{Extensions, HeaderMap, HeaderName, StatusCode, request::Parts};
use protocol::{ApiError, ErrorKind, Generate, Glance, answer::ModelList, deadline, resume::AnswerKey};

use crate::{
    account::{Account, Content},
    answers,
    audit::{Audit, Room},
    body::{Bodies, Read, Sent},
    door::Operator,
    events::{Events, Pending},
    forward::{Answer, Forward},
    headers,
    hold::Gate,
    metrics::Metrics,
    prefix,
    probes::{self, Readiness},
    settings::{Route, Settings},
    tenants::{Caller, ClientNames},
    timers::{Late, Timers},
    traces::Traces,
    traffic::{self, Answered, Asked},
};

/// What every handler needs.
#[derive(Debug)]
pub struct Api {
    /// Names, tenants and times, as they are now.
    pub settings: Arc<ArcSwap<Settings>>,
    /// The way in.
    pub gate: Gate,
    /// Where it is counted what becomes of requests.
    pub metrics: Metrics,
    /// The memory of bodies.
    pub bodies: Bodies,
    /// A request's deadline where it names none.
    pub timeout: Duration,
    /// For deadlines.
    pub timers: Timers,
    /// Where requests are recorded.
    pub audit: Option<Audit>,
    /// Where it is traced where their time went.
    pub traces: Traces,
}

static TIMEOUT: HeaderName = HeaderName::from_static(deadline::TIMEOUT_HEADER);

/// What routing needs of a checked request.
struct Wanted<'a> {
    /// `None` is the only model.
    model: Option<Cow<'a, str>>,
    stream: bool,
    /// It is sampled for.
    sampled: bool,
    /// And names no seed.
    needs_seed: bool,
}

impl Wanted<'_> {
    fn generated(asked: Generate) -> Self {
        Self { model: Some(asked.model.into()), stream: asked.stream, sampled: true, needs_seed: asked.seed.is_none() }
    }

    fn computed(model: Option<String>) -> Self {
        Self { model: model.map(Cow::Owned), stream: false, sampled: false, needs_seed: false }
    }
}

/// A path whose requests are forwarded.
pub struct Forwarded {
    /// The path.
    pub path: &'static str,
    /// What is read of a request's body.
    check: fn(&[u8]) -> Result<Wanted<'_>, ApiError>,
}

const CHAT: Forwarded = Forwarded { path: "/v1/chat/completions", check: chat };

/// All there are.
pub static FORWARDED: [Forwarded; 5] = [
    CHAT,
    Forwarded { path: "/v1/completions", check: completion },
    Forwarded { path: "/v1/embeddings", check: embeddings },
    Forwarded { path: "/tokenize", check: tokenize },
    Forwarded { path: "/detokenize", check: detokenize },
];

/// Every path of the API port. [`crate::front`] takes what is posted to those that are forwarded; they are here for every other method.
pub fn router(api: Arc<Api>, readiness: Readiness) -> Router {
    let watch = traffic::Watch::new(api.metrics.clone(), readiness.clone());
    let forwarded = FORWARDED.iter().fold(Router::new(), |router, asked| router.route(asked.path, forward(asked)));
    forwarded
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .with_state(api)
        .merge(probes::router(readiness))
        .fallback(not_found)
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::middleware::from_fn_with_state(watch, traffic::receive))
}

/// The chat's path alone, under another name, answered and counted as on the API port.
pub fn chat_at(path: &str, api: Arc<Api>, readiness: Readiness) -> Router {
    let watch = traffic::Watch::new(api.metrics.clone(), readiness);
    Router::new()
        .route(path, forward(&CHAT))
        .with_state(api)
        .layer(axum::middleware::from_fn_with_state(watch, traffic::watch))
}

fn forward(asked: &'static Forwarded) -> MethodRouter<Arc<Api>> {
    post(move |State(api): State<Arc<Api>>, request: Request| async move {
        let (mut response, route) = api.forward(request, asked).await;
        if let Some(route) = route {
            response.extensions_mut().insert(Asked(route));
        }
        response
    })
}

fn chat(body: &[u8]) -> Result<Wanted<'_>, ApiError> {
    // Most are plain, and this is on every request's way.
    if let Some(Glance { model, stream, has_seed }) = protocol::glance_chat(body) {
        return Ok(Wanted { model: Some(model), stream, sampled: true, needs_seed: !has_seed });
    }
    Ok(Wanted::generated(protocol::parse_chat(body)?.generate))
}

fn completion(body: &[u8]) -> Result<Wanted<'_>, ApiError> {
    Ok(Wanted::generated(protocol::parse_completion(body)?.generate))
}

fn embeddings(body: &[u8]) -> Result<Wanted<'_>, ApiError> {
    Ok(Wanted::computed(Some(protocol::parse_embeddings(body)?.model)))
}

fn tokenize(body: &[u8]) -> Result<Wanted<'_>, ApiError> {
    Ok(Wanted::computed(protocol::parse_tokenize(body)?.model))
}

fn detokenize(body: &[u8]) -> Result<Wanted<'_>, ApiError> {
    Ok(Wanted::computed(protocol::parse_detokenize(body)?.model))
}

async fn models(State(api): State<Arc<Api>>, request: Request) -> Response {
    api.models(&request.into_parts().0).await.unwrap_or_else(|error| answers::error(&error))
}

async fn model(State(api): State<Arc<Api>>, Path(id): Path<String>, request: Request) -> Response {
    api.model(&id, &request.into_parts().0).await.unwrap_or_else(|error| answers::error(&error))
}

fn allowed(caller: &Caller, route: &Route) -> Result<(), ApiError> {
    if caller.may_use(&route.card.id) {
        return Ok(());
    }
    let message = format!("'{}' may not use the model '{}'.", caller.name(), route.card.id);
    Err(ApiError::new(ErrorKind::Forbidden, message))
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
    async fn models(&self, head: &Parts) -> Result<Response, ApiError> {
        let settings = self.settings.load_full();
        let caller = self.identify(&settings, &head.headers, &head.extensions).await?;
        Ok(answers::json(&ModelList::new(settings.cards(&caller))))
    }

    async fn model(&self, id: &str, head: &Parts) -> Result<Response, ApiError> {
        let settings = self.settings.load_full();
        let caller = self.identify(&settings, &head.headers, &head.extensions).await?;
        let route = settings.route(Some(id))?;
        allowed(&caller, route)?;
        Ok(answers::json(&route.card))
    }

    async fn identify(
        &self,
        settings: &Settings,
        headers: &HeaderMap,
        extensions: &Extensions,
    ) -> Result<Caller, ApiError> {
        if let Some(operator) = extensions.get::<Operator>() {
            return Ok(Caller { tenant: None, by: operator.by.clone().into() });
        }
        let names = extensions.get::<ClientNames>().map_or(&[][..], |names| &names.0);
        let caller = settings.tenants.identify(headers, names).await;
        caller.inspect_err(|_| self.metrics.refused("unknown"))
    }

    /// A request to a path that is forwarded. Its answer comes with its model, once that is known.
    pub async fn forward<B: Sent>(&self, request: http::Request<B>, asked: &'static Forwarded) -> Answered {
        let (account, checked) = match self.let_in(request, asked).await {
            Ok((account, checked)) => (account, checked),
            Err(error) => return (answers::error(&error), None),
        };
        let answer = match checked {
            Err(error) => Err(error),
            Ok(Checked { forward, early: Some(early) }) => self.stream(forward, early).await,
            Ok(Checked { forward, early: None }) => {
                let deadline = forward.deadline;
                forward.answer().await.map(|answer| respond(answer, deadline))
            }
        };
        let route = account.route().cloned();
        (account.watch(answer.unwrap_or_else(|error| Content::of(answers::error(&error)))), route)
    }

    /// Finds out who asks what. Errors before the request is let in have no account.
    async fn let_in<B: Sent>(
        &self,
        request: http::Request<B>,
        forwarded: &'static Forwarded,
    ) -> Result<(Account, Result<Checked, ApiError>), ApiError> {
        let arrived = Instant::now();
        let settings = self.settings.load_full();
        let (head, body) = request.into_parts();
        let caller = self.identify(&settings, &head.headers, &head.extensions).await?;
        let asked = head.headers.get(&TIMEOUT).map(|value| deadline::timeout(value.as_bytes()));
        let asked = asked.transpose()?;
        let place = caller.enter(arrived).inspect_err(|_| self.metrics.refused("over_quota"))?;
        let come = Come { arrived, asked, deadline: after(arrived, asked.unwrap_or(self.timeout)), forwarded };
        let room = self.room(come.deadline).await?;
        let at = SystemTime::now();
        let key = AnswerKey::new(at);
        let what = (&key, forwarded.path);
        let mut account = Account::open(caller, place, room, what, (arrived, at), self.metrics.clone());
        account.trace = self.traces.begin(&head.headers, forwarded.path, arrived);
        let read = self.timers.within(come.deadline, self.bodies.read(account.caller(), &head.headers, body)).await;
        let read = read.unwrap_or_else(|Late| Err(ApiError::deadline_exceeded()));
        let checked = read.and_then(|body| self.check(&settings, &come, head, body, key, &mut account));
        Ok((account, checked))
    }

    /// Room in the audit, where there is one.
    async fn room(&self, deadline: tokio::time::Instant) -> Result<Option<Room>, ApiError> {
        let Some(audit) = &self.audit else { return Ok(None) };
        let full = || ApiError::new(ErrorKind::Unavailable, "This server cannot record requests now.").retry_after(1);
        let room = self.timers.within(deadline, Box::pin(audit.room())).await.map_err(|_| full())?;
        room.map(Some).ok_or_else(full)
    }

    /// What is asked of which model, as a request that its runtime can be asked. The client's head goes here, so that who is held has nothing of it.
    fn check(
        &self,
        settings: &Settings,
        come: &Come,
        head: Parts,
        mut body: Read,
        key: AnswerKey,
        account: &mut Account,
    ) -> Result<Checked, ApiError> {
        let wanted = (come.forwarded.check)(&body.bytes)?;
        let route = settings.route(wanted.model.as_deref())?;
        account.of(route);
        let deadline = after(come.arrived, come.asked.unwrap_or(route.timeout));
        let own = route.own(&body.bytes, wanted.model.as_deref(), wanted.sampled);
        let (stream, needs_seed) = (wanted.stream, wanted.needs_seed);
        if let Some(own) = own {
            body.bytes = own;
        }
        account.tokens.expect(body.bytes.len());
        let caller = account.caller();
        allowed(caller, route)?;
        let mut claim = caller.claim(route.hold_max, deadline.into_std());
        if route.has_several {
            claim.prefixes = prefix::of(&body.bytes, caller.scope());
        }
        let forward = Box::new(Forward {
            gate: self.gate.clone(),
            counts: route.counts(&self.metrics).clone(),
            route: route.clone(),
            path: come.forwarded.path,
            headers: headers::to_runtime(head.headers, head.uri.authority()),
            body,
            seed: needs_seed.then(|| RandomState::new().hash_one(route.slot.0)),
            key,
            timers: self.timers.clone(),
            claim,
            scope: caller.scope(),
            tokens: account.tokens.clone(),
            trace: account.trace.clone(),
            deaths: 0,
            kills: 0,
            wake: None,
            arrived: come.arrived,
            deadline,
        });
        Ok(Checked { forward, early: stream.then_some(settings.early_headers_after) })
    }

    /// The runtime's own headers if they come soon, else ours.
    async fn stream(&self, forward: Box<Forward>, early: Duration) -> Result<http::Response<Content>, ApiError> {
        let (deadline, early) = (forward.deadline, after(forward.arrived, early));
        let mut answer: Pending = Box::pin(forward.answer());
        match self.timers.within(early, &mut answer).await {
            Ok(answer) => Ok(respond(answer?, deadline)),
            Err(_) => {
                let body = Events::waiting(answer, deadline).into_body();
                let mut response = answers::typed(StatusCode::OK, protocol::sse::CONTENT_TYPE, body);
                let no_cache = http::HeaderValue::from_static("no-cache");
                response.headers_mut().insert(http::header::CACHE_CONTROL, no_cache);
                Ok(Content::of(response))
            }
        }
    }
}

/// A request that is to be forwarded.
struct Checked {
    forward: Box<Forward>,
    /// Headers leave at the latest after this time, where a stream is asked for.
    early: Option<Duration>,
}

/// A request that has been let in.
struct Come {
    arrived: Instant,
    /// The time it asked for.
    asked: Option<Duration>,
    /// Until its model is known.
    deadline: tokio::time::Instant,
    forwarded: &'static Forwarded,
}

fn after(arrived: Instant, time: Duration) -> tokio::time::Instant {
    tokio::time::Instant::from_std(arrived + time)
}

/// The runtime's answer as ours: its status, its headers, its bytes as they come.
fn respond(mut answer: Answer, deadline: tokio::time::Instant) -> http::Response<Content> {
    let (status, events) = (answer.head.status, answer.is_events());
    // A stream is asked for its own later, by who goes on with it.
    let headers = if events { answer.head.headers.clone() } else { std::mem::take(&mut answer.head.headers) };
    let headers = headers::to_client(headers);
    let body = if events {
        Content::Streamed(Events::relaying(answer, deadline).into_body())
    } else if answer.is_whole() {
        Content::Whole(answer.into_first().into())
    } else {
        Content::Streamed(plain(answer, deadline))
    };
    let mut response = http::Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// A body that breaks off, visibly, if the runtime dies or the deadline passes.
fn plain(answer: Answer, deadline: tokio::time::Instant) -> Body {
    Body::from_stream(stream::try_unfold(answer, move |mut answer| async move {
        let next = answer.timers().within(deadline, answer.next()).await;
        let data = next.map_err(|_| axum::Error::new(ApiError::deadline_exceeded()))?;
        let data = data.transpose().map_err(axum::Error::new)?;
        Ok::<_, axum::Error>(data.map(|data| (data, answer)))
    }))
}
