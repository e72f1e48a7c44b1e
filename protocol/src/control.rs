//! Messages between the activator and one runtime, over the control socket.
//!
//! The control socket is a `SOCK_SEQPACKET` pair inherited at launch: one packet is one JSON message of at most
//! [`MESSAGE_BYTES_MAX`] bytes. End of file on it means that the other side is gone; a runtime then exits.
//! Requests travel apart, as HTTP/2 over a second inherited `SOCK_STREAM` pair (the activator is the client), or as HTTP/1.1 over pairs that come
//! with [`ToRuntime::Connection`], so that no socket ever has a path on a file system.

use serde::{Deserialize, Serialize};

/// No control message is larger; a longer packet is a protocol error.
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;

/// The runtime's descriptor of the control socket, as launched.
pub const CONTROL_FD: i32 = 3;

/// The runtime's descriptor of the HTTP/2 socket, as launched.
pub const HTTP_FD: i32 = 4;

/// What the activator tells a runtime.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToRuntime {
    /// Restore this model. The snapshot's read-only descriptor rides along as `SCM_RIGHTS`.
    Restore {
        /// The name clients ask for, echoed in answers.
        model: String,
        /// Memory for KV blocks, in bytes; `None` lets the runtime choose from the model's context length.
        kv_memory_bytes: Option<u64>,
        /// A runtime before has said [`FromRuntime::Verified`] of this very file, unchanged since: what is still in memory need not be
        /// verified again.
        #[serde(default)]
        verified: bool,
        /// What lies beside an encrypted snapshot: its key, wrapped by the operator's, which only the runtime has.
        #[serde(default)]
        wrapped_key: Option<String>,
    },
    /// These guests from now on, in place of those that the snapshot carries or that were handed over before. The descriptor of sealed
    /// memory with the `guests` section that they come in rides along. Before [`ToRuntime::Restore`], or at any time after it: requests that have come keep theirs.
    Guests,
    /// One more connection for requests, HTTP/1.1, of which at most one runs at a time. Its socket rides along. Said to a runtime that is ready;
    /// one that takes no more closes it.
    Connection,
    /// Finish what runs, accept nothing new, then say [`FromRuntime::Drained`] and exit 0.
    Drain,
    /// Say [`FromRuntime::Stats`] now, whether or not anything has changed.
    Stats,
}

/// What a runtime tells the activator.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromRuntime {
    /// Everything that depends on no model is done: a standby.
    Launched {
        /// From exec to this message, in microseconds.
        launch_us: u64,
    },
    /// A first token can be produced now.
    Ready {
        /// Where the time since [`ToRuntime::Restore`] went.
        restore: RestoreTimings,
    },
    /// Which guests requests go through from now on, in their order. Said before [`FromRuntime::Ready`] where there are any, and after
    /// [`ToRuntime::Guests`] has been followed.
    Guests {
        /// The guests; 16 at most.
        guests: Vec<GuestId>,
        /// A request may be shown to them once alone: what they keep of it must not be kept twice.
        once: bool,
    },
    /// Every byte of the snapshot fits its checksum. Not said where [`ToRuntime::Restore`] said so.
    Verified,
    /// What the runtime holds has changed; told at most every 100 ms, and the last state always.
    Stats(Stats),
    /// The model cannot be restored, or the engine broke. The process exits after this.
    Failed {
        /// Whose fault it is, for the decision to retry.
        kind: FailureKind,
        /// What happened and what to do, with section and offset where bytes were bad.
        message: String,
    },
    /// Something told it to end at once: what runs is interrupted, to go on in another, which nothing new is to come to meanwhile. Said
    /// before [`FromRuntime::Drained`].
    Leaving,
    /// Drained: nothing runs any more; the process exits now.
    Drained,
}

/// One guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestId {
    /// As it is deployed.
    pub name: String,
    /// `sha256:…` of its component.
    pub digest: String,
}

/// Where a restore's time went, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreTimings {
    /// Opening, mapping and checking header and table.
    pub open_us: u64,
    /// Tokenizer and template.
    pub tokenizer_us: u64,
    /// Weights into tensors, and the KV pool.
    pub weights_us: u64,
    /// From the `Restore` message to `Ready`.
    pub total_us: u64,
}

/// What a runtime holds at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Sequences being generated.
    pub running: u32,
    /// Sequences that wait for a place or for KV blocks.
    pub waiting: u32,
    /// KV blocks in use.
    pub kv_blocks_used: u32,
    /// KV blocks that no sequence has and that the prefix cache knows.
    pub kv_blocks_idle: u32,
    /// KV blocks in all.
    pub kv_blocks_total: u32,
    /// Sequences that lost their KV blocks to older ones, in this life.
    pub preempted: u64,
    /// Tokens of prompts that the prefix cache knew, in this life.
    pub reused_tokens: u64,
    /// Tokens guessed by speculation, in this life.
    pub guessed: u64,
    /// Of these the right ones.
    pub guessed_right: u64,
    /// Resident memory of the process, in bytes.
    pub resident_bytes: u64,
}

/// Whose fault a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The snapshot's bytes are wrong: no retry will help.
    BadSnapshot,
    /// This build or machine cannot run it: no retry here will help.
    Unsupported,
    /// Too little memory now: a retry may help.
    OutOfMemory,
    /// Ours: a retry may help.
    Internal,
}
