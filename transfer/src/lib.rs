//! Host memory into a device's, through a ring of staging buffers: what a restore onto a device does.
//!
//! ```text
//! source ──fill──► staging buffer ──send──► flight ──land──► on the device
//!   ▲ several threads     ▲                                      │
//!   │                     └────────── back to the ring ◄─────────┘
//!   pieces, in order of first use
//! ```
//!
//! **Contract:** pieces are taken in their order and become one staging buffer each; whoever needs a piece waits for it alone
//! ([`Arrivals::wait`]), so that the first layer computes while later ones are still on their way. What is filled in is final: a
//! source that checks what it reads vouches for what is on the device. The first failure, of source or device, ends all.
//!
//! **Invariants:** a buffer under way belongs to its [`Flight`], so nobody can write it before the device has read it; every wait
//! ends. **Absent:** where bytes come from, what they mean, and memory of the device, which its owner has before and keeps.
//!
//! `cuda` copies with the driver's own asynchronous copies and events. It runs in tests against a stand-in for the driver
//! (`tests/fake-cuda`) and was not run on a GPU.
#![deny(unsafe_code)]

mod arrivals;
#[cfg(feature = "cuda")]
pub mod cuda;
mod ring;

pub use arrivals::Arrivals;
pub use ring::{Ring, start};

use std::ops::Range;

/// Where a part of a piece goes.
#[derive(Clone, Debug)]
pub struct Part<M> {
    /// Which bytes of the piece.
    pub from: Range<usize>,
    /// The memory, on the device.
    pub to: M,
    /// First byte there.
    pub at: usize,
}

/// What is read at once, into one staging buffer.
#[derive(Clone, Debug)]
pub struct Piece<M> {
    /// Which bytes of the source; as many as a staging buffer holds, or fewer.
    pub range: Range<u64>,
    /// What of them is wanted, and where.
    pub parts: Vec<Part<M>>,
}

/// A device, as a ring needs it.
pub trait Link: Send + 'static {
    /// Host memory that the device reads: pinned, where there is such.
    type Staging: AsMut<[u8]> + Send;
    /// Memory of the device.
    type Memory: Send;
    /// A copy under way.
    type Flight: Flight<Staging = Self::Staging>;

    /// A staging buffer of `bytes` bytes, on a page.
    ///
    /// # Errors
    /// The device has none to give.
    fn staging(&mut self, bytes: usize) -> Result<Self::Staging, Error>;

    /// Starts to copy parts of a buffer and returns.
    ///
    /// # Errors
    /// A part does not fit where it goes; the device refuses. Nothing reads the buffer any more then.
    fn send(&mut self, from: Self::Staging, parts: Vec<Part<Self::Memory>>) -> Result<Self::Flight, Error>;
}

/// A copy under way, which owns its buffer. Dropped, it waits as well.
pub trait Flight: Send {
    /// The buffer.
    type Staging;

    /// Waits until the device has all of it, and gives the buffer back.
    ///
    /// # Errors
    /// The device says that the copy failed.
    fn land(self) -> Result<Self::Staging, Error>;
}

/// Why a transfer failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source's own error.
    #[error("{0}")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What the device, or the library that drives it, answered.
    #[error("the device: {0}")]
    Device(String),
    /// A piece and its parts do not go together: an error of the program.
    #[error("a transfer's plan: {0}")]
    Plan(String),
    /// A thread could not be started, or panicked.
    #[error("{0}")]
    Thread(String),
}
