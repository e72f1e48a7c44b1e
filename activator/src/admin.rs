//! The admin port: a dashboard at `/`, and what it is drawn from (`/slots`, `/cold-starts`, `/machine`); `/metrics`, `/livez`,
//! `/readyz`; and `/slots/STATE/MODEL`, which answers once that model's slot is in that state, so that nobody needs to ask again
//! and again. Reading here changes nothing; the [`playground`](crate::playground) asks a model, as the API port does.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, Request, State},
    response::Response,
    routing::get,
};
use http::StatusCode;
use protocol::{ApiError, ErrorKind};
use tokio::sync::{oneshot, watch};

use crate::{
    answers, dashboard,
    hold::Gate,
    machine::Machine,
    metrics::Metrics,
    probes::{self, Readiness},
    scaler::{Command, SlotView},
    slot::Phase,
};

/// How long `/slots/STATE/MODEL` waits.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What every handler needs.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The way to the scaler.
    pub gate: Gate,
    /// In the order of the slots.
    pub models: Arc<[String]>,
    /// The same, as they change.
    pub phases: watch::Receiver<Vec<Phase>>,
    /// All counters.
    pub metrics: Metrics,
}

/// Every path of the admin port; the playground comes from elsewhere.
pub fn router(admin: Admin, readiness: Readiness, playground: Router) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/slots", get(slots))
        .route("/slots/{state}/{*model}", get(slots_when))
        .route("/cold-starts", get(cold_starts))
        .with_state(admin)
        .route("/machine", get(async || answers::json(&Machine::here())))
        .merge(dashboard::router())
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

async fn metrics(State(admin): State<Admin>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    answers::typed(StatusCode::OK, kind, admin.metrics.text())
}

async fn slots(State(admin): State<Admin>) -> Response {
    admin.slots().await.map_or_else(|error| answers::error(&error), |views| answers::json(&views))
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
        let slot = self.models.iter().position(|name| name == model);
        let slot = slot.ok_or_else(|| ApiError::model_not_found(model))?;
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
