//! The pilot light: always there, tiny, holds requests and lights runtimes.
//!
//! ```text
//! server ─► probes ─► traffic ─► api (tenants, body, check, route) ─► hold ─► forward ─► endpoint ─► runtime
//!                                                              │ ▲
//!                                          Arrive, Leave       ▼ │ admitted or refused
//!              dashboard, admin ─► scaler (the one owner: fleet of slots and their placement, children, standbys)
//! ```
//!
//! **Invariants:** knows no tensor, no Wasm and no tokenizer: it depends on neither Burn nor wasmtime. Survives the death
//! of any runtime. Nothing polls. Only [`config`] is told what to do (and told anew: `reload`); nothing reads the
//! environment (but the exporter of traces its own headers).

#![deny(unsafe_code)]

mod account;
mod admin;
mod answers;
mod api;
pub mod audit;
mod body;
mod child;
pub mod config;
mod control;
mod dashboard;
mod door;
mod endpoint;
mod events;
mod fleet;
mod forward;
mod front;
mod headers;
mod hold;
pub mod http1;
mod launcher;
mod life;
mod machine;
mod metrics;
mod pace;
pub mod placement;
mod playground;
mod plugins;
mod prefix;
mod probes;
mod reload;
mod scaler;
mod server;
mod settings;
pub mod slices;
pub mod slot;
mod sockets;
mod spawn;
mod succession;
pub mod tenants;
mod timers;
pub mod tls;
pub mod traces;
mod traffic;
mod watched;

pub use config::{Config, ConfigError, GroupEntry, KnativeLabels, ModelEntry};
pub use life::{Activator, ServeError, serve};
pub use plugins::Plugins;
pub use reload::{Reader, Source};
pub use sockets::Inherited;
pub use succession::SUCCESSOR;
