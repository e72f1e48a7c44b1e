//! What a plug-in may do, and how long: said by who deploys it, never by the guest.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// A service that a guest may import.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grant {
    /// `inference:guest/host`: log lines, and its own configuration.
    Host,
    /// `inference:guest/state`: values that outlive a request.
    State,
}

/// What becomes of a request whose guest fails: traps, takes too long, wants too much memory, or says what cannot be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// The request fails: 502, or 504 where time ran out; in a stream, an error event.
    #[default]
    Closed,
    /// The request goes on without this guest, and what it held back is passed on unchanged. Not for guests that keep secrets.
    Open,
}

/// How long each call may take, and how much a guest may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budgets {
    /// `on-request`, in milliseconds.
    pub request_ms: u64,
    /// `on-token`, in milliseconds, for each of its calls.
    pub token_ms: u64,
    /// `on-text`, in milliseconds.
    pub text_ms: u64,
    /// `on-response`, in milliseconds.
    pub response_ms: u64,
    /// Linear memory of one instance, in bytes.
    pub memory_bytes: usize,
    /// Text that may be held back, in bytes.
    pub held_bytes: usize,
    /// How long text may be held back, in milliseconds.
    pub held_ms: u64,
}

impl Default for Budgets {
    fn default() -> Self {
        Self {
            request_ms: 50,
            token_ms: 1,
            text_ms: 2,
            response_ms: 50,
            memory_bytes: 64 << 20,
            held_bytes: 4096,
            held_ms: 30_000,
        }
    }
}

impl Budgets {
    /// How long text may be held back.
    pub fn held(&self) -> Duration {
        Duration::from_millis(self.held_ms)
    }
}

/// A plug-in as it is deployed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// For people, and for its state: unique in a chain.
    pub name: String,
    /// What it may import; anything else is refused when it is loaded.
    #[serde(default)]
    pub grants: BTreeSet<Grant>,
    /// What `host.config` answers.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// See [`OnFailure`].
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Called again with the same, it says the same, and nothing is lost if what it does to its state happens twice: an answer that lost its
    /// runtime may go on in another, where the guest sees the text again from the beginning.
    #[serde(default)]
    pub replayable: bool,
    /// What it keeps in its state outlives the runtime. Else it is gone with that.
    #[serde(default)]
    pub durable: bool,
    /// See [`Budgets`].
    #[serde(default)]
    pub budgets: Budgets,
}

impl Spec {
    /// With nothing granted, and the default budgets.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// With these grants.
    #[must_use]
    pub fn granted(mut self, grants: impl IntoIterator<Item = Grant>) -> Self {
        self.grants.extend(grants);
        self
    }
}
