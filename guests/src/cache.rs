//! What components were compiled to, on disk, so that it is done once.
//!
//! ```text
//! FOLDER/COMPONENT-ENGINE     machine code, then its SHA-256
//! ```
//!
//! **Invariants:** compiled code comes from this file's own folder, which nobody but its owner can write, and only if it is whole; anybody's else is
//! refused with the folder. What is not there, or not whole, is compiled again. Nothing is ever taken for a component's that was not compiled from
//! exactly that component, for an engine exactly like this one.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use crate::{
    host::{Host, LoadError, digest},
    plugin::Plugin,
    spec::Spec,
};

/// Compiled code at most, in bytes.
const CODE_BYTES_MAX: u64 = 1 << 30;
/// A SHA-256.
const HASH_BYTES: usize = 32;
/// A link is not followed.
const NOFOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits() as i32;

/// See the module.
#[derive(Clone, Debug)]
pub struct Cache(PathBuf);

impl Cache {
    /// In this folder, which is made if need be.
    ///
    /// # Errors
    /// It cannot be made, or somebody else could write into it.
    pub fn open(folder: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let metadata = fs::metadata(folder)?;
        let own = rustix::process::geteuid().as_raw();
        if metadata.uid() != own || metadata.mode() & 0o022 != 0 {
            let why = "others can write into it: it is to be its owner's alone (chmod 700)";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
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
            && let Err(error) = write(&file, &code)
        {
            tracing::warn!(file = %file.display(), %error, "a guest's compiled code cannot be kept: it is compiled anew each time");
        }
        Ok((code, plugin))
    }
}

fn read(file: &Path) -> Option<Vec<u8>> {
    let open = File::options().read(true).custom_flags(NOFOLLOW).open(file).ok()?;
    let metadata = open.metadata().ok()?;
    if !metadata.is_file() || metadata.uid() != rustix::process::geteuid().as_raw() {
        return None;
    }
    let mut bytes = Vec::new();
    open.take(CODE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    let code = bytes.len().checked_sub(HASH_BYTES)?;
    let is_whole = Sha256::digest(&bytes[..code])[..] == bytes[code..];
    bytes.truncate(code);
    is_whole.then_some(bytes)
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
