//! Model files as shared bytes. **Unsafe** lives here: a mapping.
#![allow(unsafe_code)]

use crate::Error;
use bytes::Bytes;
use std::{fs::File, io::Read, path::Path};

/// Maps a whole file, read-only; an empty file is no bytes.
///
/// A file that another process cuts short while it is being imported ends this process (SIGBUS), as with every mapping.
pub(crate) fn map(path: &Path) -> Result<Bytes, Error> {
    let file = File::open(path).map_err(|error| named(path, error))?;
    if !file.metadata().map_err(|error| named(path, error))?.is_file() {
        return Err(Error::BadModel(format!("{}: not a file", path.display())));
    }
    // SAFETY: the mapping is private and read-only, and model files are not edited in place while they are imported;
    // whatever bytes are seen, they are checked as foreign bytes.
    let mapping = unsafe { memmap2::Mmap::map(&file) }.map_err(|error| named(path, error))?;
    Ok(Bytes::from_owner(mapping))
}

/// A whole small file; more than `max` bytes is an error that names the file.
pub(crate) fn read_small(path: &Path, max: u64) -> Result<Vec<u8>, Error> {
    let bad = |what: &str| Error::BadModel(format!("{}: {what}", path.display()));
    let file = File::open(path).map_err(|error| named(path, error))?;
    if !file.metadata().map_err(|error| named(path, error))?.is_file() {
        return Err(bad("not a file"));
    }
    let mut bytes = Vec::new();
    file.take(max.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| named(path, error))?;
    if bytes.len() as u64 > max {
        return Err(bad(&format!("more than the {max} bytes that are accepted")));
    }
    Ok(bytes)
}

/// As [`read_small`]; `None` where there is no such file.
pub(crate) fn read_small_if_any(path: &Path, max: u64) -> Result<Option<Vec<u8>>, Error> {
    if path.try_exists().map_err(|error| named(path, error))? { read_small(path, max).map(Some) } else { Ok(None) }
}

fn named(path: &Path, error: std::io::Error) -> Error {
    Error::Io(std::io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}
