//! What components were compiled to, on disk, so that it is done once.
//!
//! ```text
//! FOLDER/COMPONENT-ENGINE     machine code, then its SHA-256
//! ```
//!
//! **Invariants:** compiled code comes from this file's own folder, which nobody but its owner can write, and only if it is whole; anybody's else is
//! refused with the folder. It stays within a bound: what was not wanted for longest goes. What is not there, or not whole, is compiled again. Nothing is ever taken for a component's that was not compiled from
//! exactly that component, for an engine exactly like this one.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use sha2::{Digest, Sha256};

use crate::{
    host::{Host, LoadError, digest},
    plugin::Plugin,
    spec::Spec,
};

/// Compiled code at most, in bytes.
const CODE_BYTES_MAX: u64 = 1 << 30;
/// All of it at most, in bytes.
const ALL_BYTES_MAX: u64 = 2 << 30;
/// A SHA-256.
const HASH_BYTES: usize = 32;
/// Modes that let others than the owner write.
const OTHERS_WRITE: u32 = 0o022;
/// A link is not followed.
const NOFOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits() as i32;

/// See the module.
#[derive(Clone, Debug)]
pub struct Cache(PathBuf);

impl Cache {
    /// In this folder, which is made if need be.
    ///
    /// # Errors
    /// It cannot be made; or, as `PermissionDenied`, somebody else could have put there what is to run here.
    pub fn open(folder: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let metadata = fs::metadata(folder)?;
        let denied = |why: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return denied("it belongs to another user: name a cache folder of this one's (XDG_CACHE_HOME)");
        }
        if metadata.mode() & OTHERS_WRITE != 0 {
            return denied("others can write into it: it is to be its owner's alone (chmod 700)");
        }
        Ok(Self(folder.into()))
    }

    /// A component as a plug-in, compiled if it has not been before.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(&self, host: &Host, spec: Spec, component: &[u8]) -> Result<Plugin, LoadError> {
        Ok(self.take(host, spec, component)?.1)
    }

    /// The same as this engine's machine code, and seen to load as this plug-in.
    pub(crate) fn compile(&self, host: &Host, spec: &Spec, component: &[u8]) -> Result<Vec<u8>, LoadError> {
        Ok(self.take(host, spec.clone(), component)?.0)
    }

    fn take(&self, host: &Host, spec: Spec, component: &[u8]) -> Result<(Vec<u8>, Plugin), LoadError> {
        let digest = digest(component);
        let file = self.0.join(format!("{}-{}", digest.trim_start_matches("sha256:"), host.compatibility()));
        let kept = read(&file);
        let code = kept.as_ref().map_or_else(|| host.compile(component), |code| Ok(code.clone()))?;
        // SAFETY: either our compiler has returned it just now, or it is whole and lies where we alone write, and nothing but what our compiler has
        // returned for the component and the engine of its name.
        let plugin = unsafe { host.load_compiled(spec, &code, digest) }?;
        if kept.is_none()
            && let Err(error) =
                make_room(&self.0, ALL_BYTES_MAX.saturating_sub(code.len() as u64)).and_then(|()| write(&file, &code))
        {
            tracing::warn!(file = %file.display(), %error, "a guest's compiled code cannot be kept: it is compiled anew each time");
        }
        Ok((code, plugin))
    }
}

fn read(file: &Path) -> Option<Vec<u8>> {
    let open = File::options().read(true).custom_flags(NOFOLLOW).open(file).ok()?;
    let metadata = open.metadata().ok()?;
    let is_own = metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & OTHERS_WRITE == 0;
    if !metadata.is_file() || !is_own {
        return None;
    }
    // Wanted now. Where that cannot be noted it is taken for older than it is.
    let _ = open.set_modified(SystemTime::now());
    let mut bytes = Vec::new();
    open.take(CODE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let code = bytes.len().checked_sub(HASH_BYTES)?;
    let is_whole = Sha256::digest(&bytes[..code])[..] == bytes[code..];
    bytes.truncate(code);
    is_whole.then_some(bytes)
}

/// Removes what was not wanted for longest, until no more than this is there.
fn make_room(folder: &Path, most: u64) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        files.push((metadata.modified()?, metadata.len(), entry.path()));
    }
    let mut all: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
    files.sort();
    for (_, bytes, path) in files {
        if all <= most {
            break;
        }
        fs::remove_file(path)?;
        all -= bytes;
    }
    Ok(())
}

/// Beside it first, so that nobody reads half of it.
fn write(file: &Path, code: &[u8]) -> io::Result<()> {
    let beside = file.with_extension(format!("{}.part", std::process::id()));
    let put = || {
        let mut open =
            File::options().write(true).create(true).truncate(true).mode(0o600).custom_flags(NOFOLLOW).open(&beside)?;
        open.write_all(code)?;
        open.write_all(&Sha256::digest(code))?;
        fs::rename(&beside, file)
    };
    put().inspect_err(|_| {
        // What could not be put is of no use.
        let _ = fs::remove_file(&beside);
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::{os::unix::fs::PermissionsExt, time::Duration};

    /// The least that is a component with a hook.
    fn component() -> Vec<u8> {
        include_bytes!("../../guest-sdk/examples/redact/redact.wasm").to_vec()
    }

    #[test]
    fn what_was_compiled_is_taken_from_the_folder_only_if_it_is_whole() {
        let (folder, host) = (tempfile::tempdir().unwrap(), Host::new().unwrap());
        let cache = Cache::open(&folder.path().join("guests")).unwrap();
        let code = cache.compile(&host, &Spec::new("g"), &component()).unwrap();
        let file = fs::read_dir(&cache.0).unwrap().next().unwrap().unwrap().path();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(read(&file).unwrap(), code);
        for wrong in [&b""[..], b"short", &[7; 100]] {
            fs::write(&file, wrong).unwrap();
            assert!(read(&file).is_none());
            cache.load(&host, Spec::new("g"), &component()).unwrap();
            assert_eq!(read(&file).unwrap(), code, "compiled and kept again");
        }
        fs::set_permissions(&file, PermissionsExt::from_mode(0o666)).unwrap();
        assert!(read(&file).is_none(), "anybody could have written it");
        fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        let other = folder.path().join("other");
        fs::rename(&file, &other).unwrap();
        std::os::unix::fs::symlink(&other, &file).unwrap();
        assert!(read(&file).is_none(), "a link is not followed");
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
        assert!(Cache::open(folder.path()).unwrap_err().to_string().contains("chmod 700"));
    }

    #[test]
    fn what_was_not_wanted_for_longest_goes() {
        let folder = tempfile::tempdir().unwrap();
        for (name, age) in [("old", 30), ("older", 60), ("new", 1)] {
            fs::write(folder.path().join(name), [0; 100]).unwrap();
            let file = File::options().write(true).open(folder.path().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        make_room(folder.path(), 250).unwrap();
        assert!(!folder.path().join("older").exists() && folder.path().join("old").exists());
        make_room(folder.path(), 0).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
