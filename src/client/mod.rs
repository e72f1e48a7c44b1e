//! The command as a client of itself: a `serve` of its own on free ports, and real HTTP to it.
//!
//! **Invariant:** knows the server only by what any client can see: its two ports, its answers, its processes' ids.

mod http;
mod server;
mod slots;
mod sse;

pub use http::Chat;
pub use server::{Options, Server};
