//! The whole activator over its real ports and real processes. Only the runtime is a test double (see [`double`]): it
//! speaks the real control messages and HTTP on the sockets that it is given, and fails on command.
#![allow(clippy::unwrap_used)]

mod client;
mod cold;
mod connections;
mod dashboard;
mod death;
mod double;
mod house;
mod playground;
mod ports;
mod reload;
mod room;
mod shutdown;
mod streams;
mod tenants;
mod tls;
mod traces;
