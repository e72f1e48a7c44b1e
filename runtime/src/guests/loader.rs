//! Guests that come with a snapshot, or that an activator hands over, ready to be instantiated. One of the six files of this crate with `unsafe`.
//!
//! **Contract:** a snapshot's section is verified before it is looked at, and what is handed over comes from the process that launched this one.
//! Compiled code in either runs as it is: who may seal a model, or configure one, may run code in its runtime, which is confined. A process has one
//! host, so that what guests keep outlives the guests.
#![allow(unsafe_code)]

use super::kept::StateFile;
use crate::{failure::Failure, kv_store::Folder};
use guests::{Bundle, BundleError, Chain, Host};
use protocol::control::FailureKind;
use snapshot::{SectionKind, Snapshot};
use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::{Arc, OnceLock},
};

/// What is handed over at most, in bytes.
const BUNDLE_BYTES_MAX: u64 = 2 << 30;

/// Loads guests. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Loader(Arc<OnceLock<Host>>);

/// Where what durable guests keep outlives the process.
#[derive(Clone, Debug)]
pub struct Keeping {
    /// `None`: nowhere.
    pub folder: Option<Arc<Folder>>,
    /// Whose guests they are, as it is served.
    pub model: String,
}

impl Loader {
    /// A snapshot's, in their stated order; none where it has none.
    ///
    /// # Errors
    /// The section is corrupt; a guest cannot be loaded, or guests cannot run here; what they have kept cannot be read or has no place.
    pub fn sealed(&self, snapshot: &Snapshot, keeping: &Keeping) -> Result<Chain, Failure> {
        match snapshot.section(SectionKind::Guests).map_err(|e| Failure::from(&e))? {
            Some(section) => self.load(section, keeping),
            None => Ok(Chain::default()),
        }
    }

    /// Those that are handed over.
    ///
    /// # Errors
    /// As [`Loader::sealed`].
    pub fn handed(&self, file: &File, keeping: &Keeping) -> Result<Chain, Failure> {
        let unreadable =
            |error: std::io::Error| Failure::internal(format!("reading guests that were handed over: {error}"));
        let length = file.metadata().map_err(unreadable)?.len();
        if length > BUNDLE_BYTES_MAX {
            return Err(Failure::internal(format!("{length} bytes of guests; the limit is {BUNDLE_BYTES_MAX}")));
        }
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, 0).map_err(unreadable)?;
        self.load(&bytes, keeping)
    }

    fn load(&self, section: &[u8], keeping: &Keeping) -> Result<Chain, Failure> {
        let bad = |error: BundleError| Failure::new(FailureKind::BadSnapshot, error.to_string());
        let bundle = Bundle::from_bytes(section).map_err(bad)?;
        if bundle.guests.is_empty() {
            return Ok(Chain::default());
        }
        let host = self.host()?;
        // SAFETY: `seal` and `serve` write what the host's own compiler returned. A snapshot's section fits its checksums, as just seen; the other is
        // sealed memory of our launcher. An engine of another version or with other settings is told by the key beside it, and by the engine itself.
        let plugins = unsafe { bundle.load(host) }.map_err(bad)?;
        let chain = Chain::new(plugins.into_iter().map(Arc::new));
        if chain.is_durable() && !host.keeps() {
            keep(host, keeping)?;
        }
        Ok(chain)
    }

    /// Guests are asked nothing more: waits until what they keep is kept.
    pub fn close(&self) {
        if let Some(host) = self.0.get() {
            host.close();
        }
    }

    fn host(&self) -> Result<&Host, Failure> {
        if let Some(host) = self.0.get() {
            return Ok(host);
        }
        let host = Host::new().map_err(|error| Failure::new(FailureKind::Unsupported, error.to_string()))?;
        Ok(self.0.get_or_init(|| host))
    }
}

fn keep(host: &Host, keeping: &Keeping) -> Result<(), Failure> {
    let refused = |why: String| Failure::new(FailureKind::Unsupported, why);
    let Some(folder) = &keeping.folder else {
        let why = "a guest is durable, and there is no folder for what it keeps: give one (--kv-dir DIR), or say durable = false";
        return Err(refused(why.into()));
    };
    // A disk that is full, or a lock, may be otherwise later.
    let file = StateFile::open(folder, &keeping.model);
    let file = file.map_err(|error| Failure::internal(format!("what guests keep has no place: {error}")))?;
    host.keep(Box::new(file)).map_err(Failure::internal)
}
