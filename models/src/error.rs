//! What can go wrong with a model. Facts only; the caller maps each kind to an exit code or a status.

/// Why a model could not be imported, sealed, restored or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system refused; exit code 74.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The snapshot is wrong.
    #[error(transparent)]
    Snapshot(#[from] snapshot::Error),
    /// Foreign bytes are wrong: names file, field and byte offset. Exit code 65.
    #[error("{0}")]
    BadModel(String),
    /// Understood, but not something this version runs.
    #[error("{0}")]
    Unsupported(String),
    /// The device that computes, or what drives it; exit code 70.
    #[error("{0}")]
    Device(String),
}

impl Error {
    /// The same, naming the file it was found in.
    pub(crate) fn at(self, path: &std::path::Path) -> Self {
        match self {
            Self::BadModel(reason) => Self::BadModel(format!("{}: {reason}", path.display())),
            Self::Unsupported(reason) => Self::Unsupported(format!("{}: {reason}", path.display())),
            other => other,
        }
    }
}
