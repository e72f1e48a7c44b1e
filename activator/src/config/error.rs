//! What can be wrong with a configuration, in words that name the field and say what to do.

use std::net::SocketAddr;

use super::PORTS_RESERVED;
use crate::slices::SliceError;

/// What is wrong with a [`Config`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Knative uses the port.
    #[error("port {0} is one of those that Knative's own containers use ({PORTS_RESERVED:?}); choose another")]
    ReservedPort(u16),
    /// Memory for what is not there.
    #[error("standby_memory is what each standby has ready, and there is none; say how many: --standby N")]
    NoStandby,
    /// Nothing to serve.
    #[error("no model to serve; name one with --model NAME=FILE")]
    NoModel,
    /// Two models of one name.
    #[error("the model name '{0}' is given twice")]
    NameTwice(String),
    /// Names are labels and path segments.
    #[error("the model name '{0}' must have 1 to 200 printable characters without blanks")]
    BadName(String),
    /// No program to launch a runtime with.
    #[error("the command to launch a runtime with is empty")]
    NoRuntimeCommand,
    /// A bound that would refuse everything.
    #[error("{0} must be above 0")]
    Zero(&'static str),
    /// Anybody who reaches the port could ask.
    #[error(
        "{0} can be reached from other machines, and nobody would have to show who they are: name tenants in the configuration, listen on \
         127.0.0.1, or say --anonymous"
    )]
    Open(SocketAddr),
    /// A tenant that cannot be.
    #[error("tenant '{0}': {1}")]
    Tenant(String, String),
    /// A key that is good for two.
    #[error("the key {0} is given twice")]
    KeyTwice(String),
    /// Numbers and places of runtimes that cannot be.
    #[error("model '{0}': {1}")]
    Replicas(String, &'static str),
    /// Not enough for the weights.
    #[error(
        "model '{model}': memory is {memory} bytes, and its snapshot with what a runtime needs besides takes {least}, without keys and values"
    )]
    Memory {
        /// Whose.
        model: String,
        /// As configured.
        memory: u64,
        /// Keys and values need more than this.
        least: u64,
    },
    /// A slice that there is not.
    #[error(
        "model '{model}': slices names '{slice}', and there is no such slice; there are: {there} (changed [[slices]] take a restart)"
    )]
    NoSlice {
        /// Whose.
        model: String,
        /// As it is called.
        slice: String,
        /// Those that there are.
        there: String,
    },
    /// Slices that cannot be.
    #[error("{0}")]
    Slices(#[from] SliceError),
    /// A group that cannot be.
    #[error("group '{0}': {1}")]
    Group(String, String),
    /// Fields that a request could not have.
    #[error("model '{0}', sampling: {1}")]
    Sampling(String, String),
    /// An issuer that cannot be.
    #[error("issuer '{0}': {1}")]
    Issuer(String, &'static str),
    /// A collector that cannot be.
    #[error("traces: {0}")]
    Traces(&'static str),
}
