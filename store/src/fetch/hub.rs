//! From the Hugging Face hub, through its own cache: downloads resume there, other programs share them, and the store
//! links what it needs. A branch is resolved to a commit first, so that all files are of one commit.

use super::{Fetched, choose};
use crate::{
    Error, FileRecord, Hub,
    catalogue::Known,
    copy::{How, Sink, place},
    folder::Incoming,
};
use hf_hub::{
    Cache, Repo, RepoType,
    api::{
        Progress,
        sync::{Api, ApiBuilder, ApiError},
    },
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// A whole model, safetensors with configuration and tokenizer.
pub(crate) fn model(
    hub: &Hub,
    repository: &str,
    revision: &str,
    incoming: &Incoming,
    sink: &mut Sink<'_>,
) -> Result<Fetched, Error> {
    let pinned = Pinned::resolve(hub, repository, revision)?;
    let chosen = choose(&format!("hf://{repository}"), pinned.names.iter().map(String::as_str))?;
    let fetch = |name: &String| pinned.fetch(name, &incoming.files().join(name), name, sink);
    let files = chosen.iter().map(fetch).collect::<Result<_, _>>()?;
    pinned.remember(revision);
    Ok(Fetched { revision: Some(pinned.commit), import: "files".into(), files })
}

/// One file of a repository, for the catalogue.
pub(crate) fn file(
    hub: &Hub,
    repository: &str,
    revision: &str,
    file: &str,
    known: &Known,
    incoming: &Incoming,
    sink: &mut Sink<'_>,
) -> Result<FileRecord, Error> {
    let target = incoming.files().join(known.file);
    crate::folder::remove_file_if_there(&target).map_err(Error::io("removing", &target))?;
    Pinned::resolve(hub, repository, revision)?.fetch(file, &target, known.file, sink)
}

/// A repository at a commit, and the names of its files.
struct Pinned<'a> {
    hub: &'a Hub,
    /// `None` where only the cache may be asked.
    api: Option<Api>,
    repository: &'a str,
    commit: String,
    names: Vec<String>,
}

impl<'a> Pinned<'a> {
    fn resolve(hub: &'a Hub, repository: &'a str, revision: &str) -> Result<Self, Error> {
        if hub.offline {
            return Self::from_cache(hub, repository, revision);
        }
        let unavailable = |error| Error::unavailable(origin(hub, repository), problem(&error, repository));
        let api = ApiBuilder::from_cache(Cache::new(absolute(&hub.cache)))
            .with_endpoint(hub.endpoint.trim_end_matches('/').to_owned())
            .with_token(hub.token.clone())
            .with_progress(false)
            .build()
            .map_err(unavailable)?;
        let repo = Repo::with_revision(repository.to_owned(), RepoType::Model, revision.to_owned());
        let info = api.repo(repo).info().map_err(unavailable)?;
        if !is_commit(&info.sha) {
            return Err(Error::bad(origin(hub, repository), format!("{:?} is no commit", info.sha)));
        }
        let names = info.siblings.into_iter().map(|file| file.rfilename).collect();
        Ok(Self { hub, api: Some(api), repository, commit: info.sha, names })
    }

    /// The commit a branch had when it was last fetched, and the files that were.
    fn from_cache(hub: &'a Hub, repository: &'a str, revision: &str) -> Result<Self, Error> {
        let folder = repository_folder(hub, repository);
        let commit = match fs::read_to_string(folder.join("refs").join(revision)) {
            Ok(commit) => commit.trim().to_owned(),
            Err(_) => revision.to_owned(),
        };
        let missing = || {
            let problem = format!("HF_HUB_OFFLINE is set and {} has no {revision}", folder.display());
            Error::unavailable(origin(hub, repository), problem)
        };
        if !is_commit(&commit) {
            return Err(missing());
        }
        let files = fs::read_dir(folder.join("snapshots").join(&commit)).map_err(|_| missing())?;
        let names = files.filter_map(Result::ok).map(|file| file.file_name().to_string_lossy().into_owned()).collect();
        Ok(Self { hub, api: None, repository, commit, names })
    }

    /// Notes in the cache which commit the branch had, for a pull without a network.
    fn remember(&self, revision: &str) {
        let repo = Repo::with_revision(self.repository.to_owned(), RepoType::Model, revision.to_owned());
        if self.api.is_some()
            && let Err(error) = Cache::new(absolute(&self.hub.cache)).repo(repo).create_ref(&self.commit)
        {
            tracing::warn!(%error, "the hub's cache could not be written; a pull without a network will not find {revision}");
        }
    }

    fn fetch(&self, name: &str, target: &Path, record: &str, sink: &mut Sink<'_>) -> Result<FileRecord, Error> {
        let cached = repository_folder(self.hub, self.repository).join("snapshots").join(&self.commit).join(name);
        let cached = match &self.api {
            Some(api) if !cached.exists() => self.download(api, name, sink)?,
            _ => cached,
        };
        let blob = fs::canonicalize(&cached).map_err(Error::io("opening", &cached))?;
        let file = place(&blob, target, record, How::Link, sink)?;
        check(&blob, name, file)
    }

    fn download(&self, api: &Api, name: &str, sink: &mut Sink<'_>) -> Result<PathBuf, Error> {
        let repo = Repo::with_revision(self.repository.to_owned(), RepoType::Model, self.commit.clone());
        let meter = Meter { step: format!("downloading {name} ({})", self.repository), done: 0, total: 0, sink };
        api.repo(repo)
            .download_with_progress(name, meter)
            .map_err(|error| Error::unavailable(origin(self.hub, self.repository), problem(&error, self.repository)))
    }
}

/// The hub names large files by their SHA-256; what it says must be what came.
fn check(blob: &Path, name: &str, file: FileRecord) -> Result<FileRecord, Error> {
    let promised = blob.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let is_digest = promised.len() == 64 && promised.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_digest && promised != file.sha256 {
        let advice = format!("; remove {} and pull again", blob.display());
        return Err(Error::Digest { what: name.into(), expected: promised, found: file.sha256, advice });
    }
    Ok(file)
}

fn is_commit(word: &str) -> bool {
    word.len() == 40 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn repository_folder(hub: &Hub, repository: &str) -> PathBuf {
    absolute(&hub.cache).join(Repo::model(repository.to_owned()).folder_name())
}

fn origin(hub: &Hub, repository: &str) -> String {
    format!("{repository} at {}", hub.endpoint)
}

/// What happened and what to do, by the kind of failure.
fn problem(error: &ApiError, repository: &str) -> String {
    let ApiError::RequestError(request) = error else { return error.to_string() };
    match &**request {
        ureq::Error::Status(401 | 403, _) => {
            format!(
                "access denied: accept the licence of {repository} on its page, and set HF_TOKEN to a token that may read it"
            )
        }
        ureq::Error::Status(404, _) => "no such repository, revision or file; for a private one set HF_TOKEN".into(),
        ureq::Error::Status(429, _) => "too many requests: wait a while, or set HF_TOKEN".into(),
        ureq::Error::Status(status, _) => format!("answered with status {status}"),
        ureq::Error::Transport(transport) => format!(
            "not reachable ({}); from a mirror: HF_ENDPOINT=URL; without a network: bring the files and `pilotlight pull FOLDER`",
            transport.kind()
        ),
    }
}

struct Meter<'a, 'b> {
    step: String,
    done: u64,
    total: u64,
    sink: &'a mut Sink<'b>,
}

impl Progress for Meter<'_, '_> {
    fn init(&mut self, size: usize, _filename: &str) {
        (self.done, self.total) = (0, size as u64);
    }

    fn update(&mut self, size: usize) {
        self.done += size as u64;
        self.sink.say(&self.step, self.done, Some(self.total));
    }

    fn finish(&mut self) {}
}
