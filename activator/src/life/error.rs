//! Why `serve` does not begin, and what its exit code is then.

use std::{io, net::SocketAddr, path::PathBuf};

use crate::{audit::AuditError, config::ConfigError, slices::SliceError};

/// Why `serve` did not begin, or how it was cut short.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The configuration.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The slices of this machine.
    #[error("{0}")]
    Slices(#[from] SliceError),
    /// A snapshot that is not there.
    #[error("the snapshot of the model '{model}', {path}, cannot be read: {error}", path = path.display())]
    NoSnapshot {
        /// Whose.
        model: String,
        /// Where it should be.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A port.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// Which.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// Threads, signals.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// The keys of tokens.
    #[error("{0}")]
    Issuer(String),
    /// Certificates.
    #[error("{0}")]
    Tls(String),
    /// The exporter of traces.
    #[error("{0}")]
    Traces(String),
    /// The record of requests.
    #[error("{0}")]
    Audit(#[from] AuditError),
    /// A defect.
    #[error(
        "the scaler has failed, which is a defect: what was said before this tells where. Nothing can be answered any more"
    )]
    Broken,
    /// A second signal.
    #[error("ended at once by a second signal")]
    Interrupted,
}

impl ServeError {
    /// As sysexits has them.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Traces(_) | Self::Slices(_) => 64,
            Self::NoSnapshot { .. } => 66,
            Self::Bind { error, .. } if error.kind() == io::ErrorKind::AddrInUse => 69,
            Self::Issuer(_) => 69,
            Self::Tls(_) => 65,
            Self::Bind { .. } | Self::System(_) | Self::Audit(_) => 74,
            Self::Broken => 70,
            Self::Interrupted => 130,
        }
    }
}
