//! What authors of guests build with: the hooks as small traits, and the services that a host may grant.
//!
//! A guest is a WebAssembly component that sees requests, tokens, text or answers on their way. It implements the traits
//! of the hooks it wants and exports exactly those; a hook that is not exported costs nothing:
//!
//! ```
//! # #![allow(clippy::needless_doctest_main)]
//! use guest_sdk::{Edit, Rejection, TextHook};
//!
//! #[derive(Default)]
//! struct Shout;
//!
//! impl TextHook for Shout {
//!     fn text(&mut self, window: &str, _end: bool) -> Result<Edit, Rejection> {
//!         Ok(Edit::replace_all(window, window.to_uppercase()))
//!     }
//! }
//!
//! guest_sdk::export!(Shout: text);
//! # fn main() {}
//! ```
//!
//! One instance serves one request: what a guest keeps in `self` is gone with the request, and only [`state`] survives.
//! The contract itself, for every language, is `wit/world.wit`; `build-guest` makes the component.
//!
//! **Invariant:** no I/O but [`host`] and [`state`], no macro that runs at build time, nothing of the host's side.

#[doc(hidden)]
#[allow(missing_docs, unsafe_op_in_unsafe_fn, clippy::all, clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]
pub mod bindings;
mod edit;
mod export;
mod hooks;

pub use bindings::services::inference::guest::types::{
    Finish, Grammar, Message, Prompt, Rejection, Request, Sampling, TokenId, Usage,
};
pub use bindings::services::inference::guest::{host, state};
pub use hooks::{Bias, Constraint, Edit, RequestHook, Response, ResponseHook, TextHook, TokenHook, Verdict};
