//! The dashboard's way to a model: the API port is another origin to its page, so the admin port has the chat's path, too.
//!
//! **Invariant:** answers only who the [`door`](crate::door) lets in. Who shows an API key is its tenant, as on the API port.

use std::sync::Arc;

use axum::{Router, middleware};

use crate::{
    api::{self, Api},
    door::{self, Door},
    probes::Readiness,
};

/// Where the page asks.
pub const PATH: &str = "/playground/v1/chat/completions";

/// The playground's one path.
pub fn router(api: Arc<Api>, readiness: Readiness, door: Door) -> Router {
    api::chat_at(PATH, api, readiness).layer(middleware::from_fn_with_state(door, door::guard))
}
