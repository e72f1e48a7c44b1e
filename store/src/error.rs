//! Why the store could not do something, and what the user can do about it.

use std::{
    io,
    path::{Path, PathBuf},
};

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A name that is none.
    #[error(
        "{name:?} is no model name: 1 to 128 of A-Z a-z 0-9 . _ -, beginning with a letter or digit; give one with --name"
    )]
    Name {
        /// As given.
        name: String,
    },
    /// Nothing of that name is in the store.
    #[error("the store has no model {name:?}")]
    NotFound {
        /// As given.
        name: String,
    },
    /// Neither a catalogue name nor a path nor an address.
    #[error(
        "{given:?} is neither a catalogue name ({known}), nor an existing file or folder, nor hf://owner/model[@revision]"
    )]
    UnknownSource {
        /// As given.
        given: String,
        /// The catalogue's names.
        known: String,
    },
    /// A kind of address this version does not pull from.
    #[error("{scheme}:// is not supported yet: {instead}, then `pilotlight pull PATH --name NAME`")]
    Unsupported {
        /// Its scheme.
        scheme: &'static str,
        /// What fetches it meanwhile.
        instead: &'static str,
    },
    /// A guest's address that may mean another one tomorrow.
    #[error("{given} is not pinned by a digest: `pilotlight guest pull {given}` says what it means now")]
    Unpinned {
        /// As given.
        given: String,
    },
    /// Another process is at it.
    #[error("{name} is being pulled or removed by another process; try again when it is done")]
    Busy {
        /// The model.
        name: String,
    },
    /// Bytes that are not those expected.
    #[error("{what} has SHA-256 {found}, expected {expected}{advice}")]
    Digest {
        /// The file, and where it came from.
        what: String,
        /// Hexadecimal.
        expected: String,
        /// Hexadecimal.
        found: String,
        /// What to do; may be empty.
        advice: String,
    },
    /// A file or folder that holds no model, an archive without the member, a record that is no record.
    #[error("{what}: {problem}")]
    Bad {
        /// The file or address.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A snapshot that was to be pulled is not sound.
    #[error("{}: {source}", path.display())]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: snapshot::Error,
    },
    /// An origin did not give what it was asked for.
    #[error("{origin}: {problem}")]
    Unavailable {
        /// E.g. `PyPI`.
        origin: String,
        /// What happened, and what to do.
        problem: String,
    },
    /// No origin of a catalogue model gave its bytes.
    #[error("{name} could not be fetched:{}\n  by hand: get {file} (SHA-256 {sha256}), then `pilotlight pull {file} --name {name}`", each(.tried))]
    NoOrigin {
        /// The catalogue's name.
        name: &'static str,
        /// Its file.
        file: &'static str,
        /// The file's digest.
        sha256: &'static str,
        /// One error for each origin, in order.
        tried: Vec<Error>,
    },
}

impl Error {
    /// The exit code (sysexits) of a command that ends with this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Io { .. } => 74,
            Self::Name { .. } | Self::UnknownSource { .. } | Self::Unsupported { .. } | Self::Unpinned { .. } => 64,
            Self::NotFound { .. } => 66,
            Self::Busy { .. } | Self::Unavailable { .. } => 69,
            Self::Digest { .. } | Self::Bad { .. } => 65,
            Self::Snapshot { source, .. } => source.exit_code(),
            Self::NoOrigin { tried, .. } => tried.last().map_or(69, Self::exit_code),
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn bad(what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Bad { what: what.into(), problem: problem.into() }
    }

    pub(crate) fn unavailable(origin: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Unavailable { origin: origin.into(), problem: problem.into() }
    }
}

fn each(errors: &[Error]) -> String {
    errors.iter().map(|error| format!("\n  {error}")).collect()
}
