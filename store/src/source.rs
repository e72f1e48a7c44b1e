//! What was given to `pull`, understood.

use crate::{
    Error,
    catalogue::{self, Known},
};
use std::path::PathBuf;

/// A source; nothing has been fetched, only a path's existence was asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Known(&'static Known),
    Hub { repository: String, revision: String },
    Path(PathBuf),
}

impl Source {
    pub(crate) fn parse(given: &str) -> Result<Self, Error> {
        match given.split_once("://") {
            Some(("hf", rest)) => hub(given, rest),
            Some(("oci", _)) => {
                Err(Error::Unsupported { scheme: "oci", instead: "fetch it with `skopeo copy` or `oras pull`" })
            }
            Some(("s3", _)) => {
                Err(Error::Unsupported { scheme: "s3", instead: "fetch it with `aws s3 cp --recursive`" })
            }
            Some(("file", path)) => existing(given, path),
            Some(_) => Err(unknown(given)),
            None => match catalogue::find(given) {
                Some(known) => Ok(Self::Known(known)),
                None => existing(given, given.strip_prefix("file:").unwrap_or(given)),
            },
        }
    }

    /// The name without `--name`; not checked yet.
    pub(crate) fn default_name(&self) -> String {
        match self {
            Self::Known(known) => known.name.into(),
            Self::Hub { repository, .. } => repository.rsplit('/').next().unwrap_or_default().into(),
            Self::Path(path) if path.is_dir() => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            Self::Path(path) => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }
}

fn hub(given: &str, rest: &str) -> Result<Source, Error> {
    let (repository, revision) = rest.split_once('@').unwrap_or((rest, "main"));
    let parts: Vec<&str> = repository.split('/').collect();
    let plain = |word: &&str| crate::name::checked(word).is_ok();
    let revision_is_plain = !revision.is_empty() && revision.split('/').all(|word| plain(&word));
    if parts.len() != 2 || !parts.iter().all(plain) || !revision_is_plain {
        return Err(unknown(given));
    }
    Ok(Source::Hub { repository: repository.into(), revision: revision.into() })
}

fn existing(given: &str, path: &str) -> Result<Source, Error> {
    // Made absolute, so that `.` has a name.
    match std::fs::canonicalize(path) {
        Ok(path) => Ok(Source::Path(path)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(unknown(given)),
        Err(error) => Err(Error::io("finding", path.as_ref())(error)),
    }
}

fn unknown(given: &str) -> Error {
    let names: Vec<&str> = catalogue::all().iter().map(|known| known.name).collect();
    Error::UnknownSource { given: given.into(), known: names.join(", ") }
}
