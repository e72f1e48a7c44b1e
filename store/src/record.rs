//! `entry.json`: what a model folder holds. Small, readable, written before the folder can be seen.

use crate::{Entry, Error, fetch::Fetched};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

const FILE_NAME: &str = "entry.json";
const FORMAT: u16 = 1;
/// Largest record that is read.
const RECORD_BYTES_MAX: u64 = 4 << 20;

/// A pulled file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecord {
    /// Path within the model's files.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    format: u16,
    pub(crate) name: String,
    source: String,
    revision: Option<String>,
    /// What to import, within the model's folder.
    import: PathBuf,
    sha256: String,
    bytes: u64,
    files: Vec<FileRecord>,
}

impl Record {
    pub(crate) fn new(name: String, source: String, fetched: Fetched) -> Self {
        let Fetched { revision, import, mut files } = fetched;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let bytes = files.iter().map(|file| file.bytes).sum();
        Self { format: FORMAT, name, source, revision, import, sha256: digest(&files), bytes, files }
    }

    /// The record in a model's folder; `None` where there is none.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>, Error> {
        let path = folder.join(FILE_NAME);
        let mut json = Vec::new();
        match File::open(&path).and_then(|file| file.take(RECORD_BYTES_MAX).read_to_end(&mut json)) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(error) => return Err(Error::io("reading", &path)(error)),
        }
        let bad = |problem: String| Error::bad(path.display().to_string(), problem);
        let record: Self = serde_json::from_slice(&json).map_err(|error| bad(error.to_string()))?;
        if record.format != FORMAT {
            return Err(bad(format!("format {}, this build reads {FORMAT}", record.format)));
        }
        Ok(Some(record))
    }

    pub(crate) fn write(&self, folder: &Path) -> Result<(), Error> {
        let path = folder.join(FILE_NAME);
        let json = serde_json::to_vec_pretty(self).expect("a record has string keys and no floats");
        let written = File::create_new(&path).and_then(|mut file| {
            file.write_all(&json)?;
            file.sync_all()
        });
        written.map_err(Error::io("writing", &path))
    }

    pub(crate) fn same_content(&self, other: &Self) -> bool {
        self.sha256 == other.sha256
    }

    pub(crate) fn into_entry(self, folder: &Path, mut snapshots: Vec<PathBuf>) -> Entry {
        snapshots.sort();
        let Self { name, source, revision, import, sha256, bytes, files, .. } = self;
        Entry { name, source, revision, path: folder.join(import), sha256, bytes, files, snapshots }
    }
}

fn digest(files: &[FileRecord]) -> String {
    match files {
        [file] => file.sha256.clone(),
        files => {
            let lines: String = files.iter().map(|file| format!("{}  {}\n", file.sha256, file.path)).collect();
            crate::copy::hex(&Sha256::digest(lines))
        }
    }
}
