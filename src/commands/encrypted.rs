//! Encrypted snapshots, opened by commands that have the operator's key.

use crate::exit::{Error, Result};
use snapshot::{Header, OperatorKey, Room, Snapshot};
use std::{fs::File, io::ErrorKind, path::Path, sync::Arc};

/// What an encrypted snapshot holds, decrypted into `room`, if there is one, by as many threads as there are cores.
pub fn open(path: &Path, operator: &OperatorKey, room: Option<Room>) -> Result<Arc<Snapshot>> {
    let named = |source| Error::SnapshotFile { path: path.into(), source };
    let missing = |path: &Path| Error::file(format!("opening {}", path.display()), ErrorKind::NotFound.into());
    let encrypted = File::open(path).map_err(|_| missing(path))?;
    let wrapped = snapshot::wrapped_key(path).map_err(|_| missing(&snapshot::key_path(path)))?;
    let header = Header::read(&encrypted).map_err(named)?;
    let key = operator.unwrap(wrapped.as_bytes(), &header.digest).map_err(named)?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    Snapshot::decrypt_into(room, encrypted, &key, threads).map_err(named)
}
