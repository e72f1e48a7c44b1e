//! The admin port: a dashboard at `/`, and what it is drawn from (`/slots`, `/slices`, `/cold-starts`, `/machine`); `/metrics`,
//! `/livez`, `/readyz`; and `/slots/STATE/MODEL`, which answers once that model's slot is in that state, so that nobody needs to ask again
//! and again. Reading here changes nothing; the [`playground`](crate::playground) asks a model, as the API port does, and `POST /admin/…` is an
//! operator's wish: both are let in by the [`door`](crate::door) alone.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use axum::{
    Router,
    extract::{Path, Request, State},
    middleware,
    response::Response,
    routing::{get, post},
};
use http::StatusCode;
use protocol::{ApiError, ErrorKind};
use serde::Deserialize;
use tokio::sync::{oneshot, watch};

use crate::{
    answers, dashboard,
    door::{self, Door},
    hold::Gate,
    machine::Machine,
    metrics::Metrics,
    probes::{self, Readiness},
    scaler::{Command, SlotView, Wish},
    settings::Settings,
    slot::Phase,
};

/// How long `/slots/STATE/MODEL` waits.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The body of a wish is no larger.
const WISH_BYTES_MAX: usize = 4096;

/// What every handler needs.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The way to the scaler.
    pub gate: Gate,
    /// Names and keys, as they are now.
    pub settings: Arc<ArcSwap<Settings>>,
    /// Who may change something.
    pub door: Door,
    /// Phases of all slots, as they change.
    pub phases: watch::Receiver<Vec<Phase>>,
    /// All counters.
    pub metrics: Metrics,
}

/// Every path of the admin port; the playground comes from elsewhere.
pub fn router(admin: Admin, readiness: Readiness, playground: Router) -> Router {
    let wishes = Router::new()
        .route("/admin/load", post(|admin, request| wish(admin, request, |_| Wish::Load)))
        .route("/admin/unload", post(|admin, request| wish(admin, request, |_| Wish::Unload)))
        .route("/admin/drain", post(|admin, request| wish(admin, request, |_| Wish::Drain)))
        .route(
            "/admin/pin",
            post(|admin, request| wish(admin, request, |asked| Wish::Pin(asked.pinned.unwrap_or(true)))),
        )
        .layer(middleware::from_fn_with_state(admin.door.clone(), door::guard))
        .with_state(admin.clone());
    Router::new()
        .route("/metrics", get(metrics))
        .route("/slots", get(slots))
        .route("/slots/{state}/{*model}", get(slots_when))
        .route("/slices", get(slices))
        .route("/cold-starts", get(cold_starts))
        .with_state(admin)
        .route("/machine", get(async || answers::json(&Machine::here())))
        .merge(dashboard::router())
        .merge(wishes)
        .merge(playground)
        .merge(probes::router(readiness))
        .fallback(async |request: Request| {
            let message = format!("There is no path {}.", request.uri().path());
            answers::error(&ApiError::new(ErrorKind::NotFound, message))
        })
        .method_not_allowed_fallback(async |request: Request| {
            let message = format!("The path {} does not take {}.", request.uri().path(), request.method());
            answers::error(&ApiError::new(ErrorKind::MethodNotAllowed, message))
        })
}

/// The body of `POST /admin/…`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    model: String,
    /// Of `pin` alone; without it, true.
    pinned: Option<bool>,
}

async fn wish(State(admin): State<Admin>, request: Request, wish: fn(&Asked) -> Wish) -> Response {
    admin.wish(request, wish).await.unwrap_or_else(|error| answers::error(&error))
}

async fn metrics(State(admin): State<Admin>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    answers::typed(StatusCode::OK, kind, admin.metrics.text())
}

async fn slots(State(admin): State<Admin>) -> Response {
    admin.slots().await.map_or_else(|error| answers::error(&error), |views| answers::json(&views))
}

async fn slices(State(admin): State<Admin>) -> Response {
    admin.ask(Command::Slices).await.map_or_else(|error| answers::error(&error), |views| answers::json(&views))
}

async fn cold_starts(State(admin): State<Admin>) -> Response {
    admin.ask(Command::ColdStarts).await.map_or_else(|error| answers::error(&error), |starts| answers::json(&starts))
}

/// The same, once this model's slot is in this state.
async fn slots_when(State(mut admin): State<Admin>, Path((state, model)): Path<(String, String)>) -> Response {
    match admin.wait_for(&model, &state).await {
        Ok(()) => slots(State(admin)).await,
        Err(error) => answers::error(&error),
    }
}

impl Admin {
    async fn wish(&self, request: Request, wish: fn(&Asked) -> Wish) -> Result<Response, ApiError> {
        let body = axum::body::to_bytes(request.into_body(), WISH_BYTES_MAX).await;
        let body = body
            .map_err(|error| ApiError::new(ErrorKind::InvalidRequest, format!("the body cannot be read: {error}")))?;
        let asked: Asked = serde_json::from_slice(&body).map_err(|error| {
            ApiError::new(ErrorKind::InvalidRequest, format!("the body is not as it should be: {error}"))
        })?;
        let slot = self.settings.load().route(Some(&asked.model))?.slot;
        let gone = |_| ApiError::new(ErrorKind::Unavailable, "This server is shutting down.");
        self.gate.commands().send(Command::Wish(slot, wish(&asked))).await.map_err(gone)?;
        Ok(answers::json(&serde_json::json!({ "model": asked.model })))
    }

    /// What the scaler says to a command.
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        let gone = || ApiError::new(ErrorKind::Unavailable, "This server is shutting down.");
        self.gate.commands().send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    async fn slots(self) -> Result<Vec<SlotView>, ApiError> {
        let mut views = self.ask(Command::Views).await?;
        for view in &mut views {
            view.resident_bytes = view.replicas.iter().filter_map(|replica| resident_bytes(replica.pid)).sum();
        }
        Ok(views)
    }

    async fn wait_for(&mut self, model: &str, state: &str) -> Result<(), ApiError> {
        let slot = self.settings.load().route(Some(model))?.slot.0;
        let state = Phase::ALL.into_iter().find(|phase| phase.name() == state);
        let state = state.ok_or_else(|| ApiError::field("state", "is none of a slot's states"))?;
        let reached = self.phases.wait_for(|phases| phases[slot] == state);
        match tokio::time::timeout(WAIT_MAX, reached).await {
            Ok(_) => Ok(()),
            Err(_) => {
                Err(ApiError::new(ErrorKind::DeadlineExceeded, format!("'{model}' did not become {}.", state.name())))
            }
        }
    }
}

/// Resident memory of a process; `None` if it is gone.
fn resident_bytes(pid: i32) -> Option<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}
