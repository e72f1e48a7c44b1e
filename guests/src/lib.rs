//! Hosts guests: WebAssembly components that see requests, texts and answers on their way through a runtime.
//!
//! **Contract:** a guest gets what it was granted and nothing else (its import list is the permission request, checked when it is loaded); every call
//! is bounded in time and memory; whatever a guest does, its host lives, and what becomes of the request is the plug-in's stated
//! [`OnFailure`]. One instance serves one choice of one request; only [`State`] survives it.
//!
//! ```text
//! spec      what a plug-in may do, and how long
//! host      engine, clock, services: one for a process
//! overtime  budgets on a busy machine
//! plugin    a loaded component, ready to be instantiated
//! session   the instances of one choice: request → tokens, texts → response
//! steer     what guests say of the next token, checked
//! window    text that is not settled yet, and what a guest's edit may say of it
//! state     what guests keep, by plug-in and scope
//! keep      where what is durable of it outlives the process
//! bundle    guests as a snapshot carries them, or an activator hands them over
//! cache     what they were compiled to, for the next time
//! ```
//!
//! The contract with guests is `guest-sdk/wit/world.wit`.

mod bundle;
mod cache;
mod clock;
mod failure;
mod host;
mod keep;
mod overtime;
mod plugin;
mod session;
mod spec;
mod state;
mod steer;
mod types;
mod window;

pub use bundle::{Bundle, BundleError, Bundled};
pub use cache::Cache;
pub use failure::{Failure, Refused};
pub use host::{Host, LoadError};
pub use keep::{Keeper, Kept};
pub use plugin::{Hooks, Plugin};
pub use session::{Chain, Edited, Session, Verdict};
pub use spec::{Budgets, Grant, OnFailure, Spec};
pub use state::{Scope, State};
pub use steer::Steer;
pub use types::{Finish, Grammar, Message, Prompt, Rejection, Request, Response, Sampling, Usage};
