//! The folders of a store: the lock on a name, a folder in the making, what lies in one.

use crate::{Error, is_key, is_snapshot};
use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

/// How deep a model's folder is walked, and how many files it may hold.
const DEPTH_MAX: usize = 8;
const FILES_MAX: usize = 100_000;

/// Held while a name is pulled or removed. The system lets go of it with the process.
pub(crate) struct Lock(File);

impl Lock {
    pub(crate) fn take(root: &Path, name: &str) -> Result<Self, Error> {
        let path = root.join("locks").join(format!("{name}.lock"));
        let file = File::create(&path).map_err(Error::io("making", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(Error::Busy { name: name.into() }),
            Err(TryLockError::Error(error)) => Err(Error::io("locking", &path)(error)),
        }
    }
}

impl Drop for Lock {
    /// Said aloud, because closing is not enough: a process that is being started just now has a copy of the descriptor until
    /// it runs its program.
    fn drop(&mut self) {
        // Where this fails the system lets go of it with the last copy.
        let _ = self.0.unlock();
    }
}

/// A model's folder in the making, or on its way out. Whoever holds the name's lock owns it, so what an earlier process
/// left is removed first. Dropping it removes it.
pub(crate) struct Incoming {
    path: PathBuf,
}

impl Incoming {
    pub(crate) fn new(root: &Path, name: &str) -> Result<Self, Error> {
        let path = root.join("incoming").join(name);
        remove_if_there(&path).map_err(Error::io("removing", &path))?;
        let made = Self { path };
        for path in [made.files(), made.scratch()] {
            fs::create_dir_all(&path).map_err(Error::io("making", &path))?;
        }
        Ok(made)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The model's files.
    pub(crate) fn files(&self) -> PathBuf {
        self.path.join("files")
    }

    /// For what is only needed on the way; never published.
    pub(crate) fn scratch(&self) -> PathBuf {
        self.path.join(".scratch")
    }

    /// Moves a model's folder in, so that it can no longer be seen.
    pub(crate) fn take_in(&self, folder: &Path) -> Result<(), Error> {
        fs::rename(folder, self.scratch().join("old")).map_err(Error::io("moving", folder))
    }

    /// Links the snapshots, and the keys beside them, of a folder that is about to be replaced.
    pub(crate) fn adopt_snapshots(&self, folder: &Path) -> Result<(), Error> {
        for (old, _) in tree(folder)?.iter().filter(|(path, _)| is_snapshot(path) || is_key(path)) {
            let new = self.path.join(old.file_name().unwrap_or_default());
            if !new.exists() {
                fs::hard_link(old, &new).map_err(Error::io("linking", old))?;
            }
        }
        Ok(())
    }

    /// Renames it to its place. What was there goes first, so a crash in between leaves the name free, never broken.
    pub(crate) fn publish(self, folder: &Path) -> Result<(), Error> {
        let scratch =
            self.path.with_file_name(format!(".{}", self.path.file_name().unwrap_or_default().to_string_lossy()));
        remove_if_there(&scratch).map_err(Error::io("removing", &scratch))?;
        fs::rename(self.scratch(), &scratch).map_err(Error::io("moving", &scratch))?;
        if folder.exists() {
            fs::rename(folder, scratch.join("old")).map_err(Error::io("moving", folder))?;
        }
        fs::rename(&self.path, folder).map_err(Error::io("moving", folder))?;
        if let Some(parent) = folder.parent() {
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(Error::io("syncing", parent))?;
        }
        remove_if_there(&scratch).map_err(Error::io("removing", &scratch))
    }

    pub(crate) fn remove(self) -> Result<(), Error> {
        remove_if_there(&self.path).map_err(Error::io("removing", &self.path))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Err(error) = remove_if_there(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a partial pull could not be removed; the next one will try again");
        }
    }
}

/// Every file beneath a folder with its size, sorted. Symbolic links are not followed.
pub(crate) fn tree(folder: &Path) -> Result<Vec<(PathBuf, u64)>, Error> {
    let mut files = Vec::new();
    walk(folder, 0, &mut files)?;
    files.sort();
    Ok(files)
}

fn walk(folder: &Path, depth: usize, files: &mut Vec<(PathBuf, u64)>) -> Result<(), Error> {
    if depth > DEPTH_MAX || files.len() > FILES_MAX {
        return Err(Error::bad(folder.display().to_string(), "is too deep, or holds too many files"));
    }
    for entry in fs::read_dir(folder).map_err(Error::io("listing", folder))? {
        let entry = entry.map_err(Error::io("listing", folder))?;
        let path = entry.path();
        let metadata = entry.metadata().map_err(Error::io("sizing", &path))?;
        if metadata.is_dir() {
            walk(&path, depth + 1, files)?;
        } else {
            files.push((path, metadata.len()));
        }
    }
    Ok(())
}

/// Removes a folder that may be missing.
fn remove_if_there(path: &Path) -> io::Result<()> {
    absent_is_fine(fs::remove_dir_all(path))
}

/// Removes a file that may be missing.
pub(crate) fn remove_file_if_there(path: &Path) -> io::Result<()> {
    absent_is_fine(fs::remove_file(path))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
