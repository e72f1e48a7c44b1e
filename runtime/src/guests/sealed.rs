//! Guests that come with a snapshot, ready to be instantiated. One of the four files of this crate with `unsafe`.
//!
//! **Contract:** their section is verified before it is looked at. Compiled code in it runs as it is: who may seal a model may run code in its
//! runtime, which is confined.
#![allow(unsafe_code)]

use crate::failure::Failure;
use guests::{Bundle, BundleError, Chain, Host};
use protocol::control::FailureKind;
use snapshot::{SectionKind, Snapshot};
use std::sync::Arc;

/// In their stated order; none where the snapshot has none.
///
/// # Errors
/// The section is corrupt; a guest cannot be loaded, or guests cannot run here.
pub fn load(snapshot: &Snapshot) -> Result<Chain, Failure> {
    let Some(section) = snapshot.section(SectionKind::Guests).map_err(|e| Failure::from(&e))? else {
        return Ok(Chain::default());
    };
    let bad = |error: BundleError| Failure::new(FailureKind::BadSnapshot, error.to_string());
    let bundle = Bundle::from_bytes(section).map_err(bad)?;
    let host = Host::new().map_err(|error| Failure::new(FailureKind::Unsupported, error.to_string()))?;
    // SAFETY: `seal` writes what the host's own compiler returned, and the section fits its checksums, as just seen. An engine of another version
    // or with other settings is told by the key beside it, and by the engine itself.
    let plugins = unsafe { bundle.load(&host) }.map_err(bad)?;
    Ok(Chain::new(plugins.into_iter().map(Arc::new)))
}
