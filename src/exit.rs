//! What ends a command: one enum, and one table from its facts to the exit codes of sysexits.h.

use std::{io, path::PathBuf, process::ExitCode};

/// Wrong words on the command line, or a configuration that makes no sense.
pub const USAGE: u8 = 64;
/// A model, a snapshot or an answer whose bytes are wrong.
pub const DATA: u8 = 65;
/// A file or a model that is not there.
pub const NO_INPUT: u8 = 66;
/// Something outside is not to be had: a network, a server, a port.
pub const UNAVAILABLE: u8 = 69;
/// A mistake of ours.
pub const INTERNAL: u8 = 70;
/// Reading or writing failed.
pub const IO: u8 = 74;

/// Why a command could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The words are right one by one but not together, or the environment is wrong.
    #[error("{0}")]
    Usage(String),
    /// No such file.
    #[error("{}: no such file", .0.display())]
    NoFile(PathBuf),
    /// The store does not have it.
    #[error("{0}")]
    NoModel(String),
    /// Bytes that came back from a server or a file are not what they should be.
    #[error("{0}")]
    Data(String),
    /// Something outside this process did not do its part.
    #[error("{0}")]
    Unavailable(String),
    /// An importer or the tokenizer refused.
    #[error(transparent)]
    Models(#[from] models::Error),
    /// The snapshot is not readable.
    #[error(transparent)]
    Snapshot(#[from] snapshot::Error),
    /// The same, with the file's name, which the format's reader does not know.
    #[error("{}: {source}", path.display())]
    SnapshotFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: snapshot::Error,
    },
    /// The store refused.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A file or a pipe, with what was being done.
    #[error("{doing}: {source}")]
    File {
        /// What was being done, with the file's name.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
    /// Standard output or another stream.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Result of a command.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An I/O error with what was being done.
    pub fn file(doing: impl Into<String>, source: io::Error) -> Self {
        Self::File { doing: doing.into(), source }
    }

    /// The one table of exit codes.
    pub fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            Self::NoFile(_) | Self::NoModel(_) => NO_INPUT,
            Self::Data(_) => DATA,
            Self::Unavailable(_) => UNAVAILABLE,
            Self::Models(error) => models_code(error),
            Self::Snapshot(error) | Self::SnapshotFile { source: error, .. } => snapshot_code(error),
            Self::Store(error) => store_code(error),
            Self::File { source, .. } | Self::Io(source) => io_code(source),
        }
    }

    /// The reader of our output left: nothing is wrong, and nobody is there to be told.
    fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Io(error) | Self::File { source: error, .. } if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

fn models_code(error: &models::Error) -> u8 {
    match error {
        models::Error::Io(error) => io_code(error),
        models::Error::Snapshot(error) => snapshot_code(error),
        models::Error::BadModel(_) => DATA,
        models::Error::Unsupported(_) => UNAVAILABLE,
        models::Error::Device(_) => INTERNAL,
    }
}

fn snapshot_code(error: &snapshot::Error) -> u8 {
    match error {
        snapshot::Error::Io { source, .. } => io_code(source),
        _ => DATA,
    }
}

fn store_code(error: &store::Error) -> u8 {
    match error {
        store::Error::Io { source, .. } => io_code(source),
        store::Error::Snapshot { source, .. } => snapshot_code(source),
        other => other.exit_code(),
    }
}

fn io_code(error: &io::Error) -> u8 {
    match error.kind() {
        io::ErrorKind::NotFound => NO_INPUT,
        _ => IO,
    }
}

/// Says what went wrong on standard error and turns a result into the exit code.
pub fn report(result: Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            crate::output::complain(&error);
            ExitCode::from(error.code())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_kind_of_fact_has_its_sysexits_code() {
        let not_found = || io::Error::from(io::ErrorKind::NotFound);
        let cases: [(Error, u8); 9] = [
            (Error::Usage("x".into()), 64),
            (Error::Models(models::Error::BadModel("x".into())), 65),
            (Error::Data("x".into()), 65),
            (Error::NoFile("x".into()), 66),
            (Error::file("reading x", not_found()), 66),
            (Error::Models(models::Error::Io(not_found())), 66),
            (Error::Models(models::Error::Unsupported("x".into())), 69),
            (Error::Unavailable("x".into()), 69),
            (Error::Io(io::Error::other("x")), 74),
        ];
        for (error, code) in cases {
            assert_eq!(error.code(), code, "{error:?}");
        }
    }

    #[test]
    fn a_reader_that_left_is_no_failure() {
        let gone = Error::Io(io::ErrorKind::BrokenPipe.into());
        assert_eq!(format!("{:?}", report(Err(gone))), format!("{:?}", ExitCode::SUCCESS));
    }
}
