//! The snapshot's section `kernels`: what the compiler of a CUDA device made of the kernels that a model uses, so that no start compiles them
//! once more. It begins as `headed.rs` says, with the magic 89 50 4C 54 4B 52 4E 0A; its JSON has what they were compiled by and for and each
//! one's lengths; its bytes are their keys and code, one after the other.
//!
//! **Contract:** what another build of this program made, or for another architecture, is not used, which is said. Kernels that a model turns
//! out to need beside those are compiled when it does. Tested with a stand-in for the driver; not run on a GPU.

use crate::headed::Headed;
use crate::{ComputeDevice, Error};
use kernels::compiled::CompiledKernel;
use serde::{Deserialize, Serialize};
#[cfg(not(feature = "cuda"))]
use snapshot::Snapshot;
#[cfg(not(feature = "cuda"))]
use std::sync::Arc;

#[cfg(feature = "cuda")]
mod device;
#[cfg(feature = "cuda")]
pub use device::adopt_kernels;
#[cfg(feature = "cuda")]
pub(crate) use device::compute;

const SECTION: Headed = Headed { magic: *b"\x89PLTKRN\n", name: "kernels" };

/// The section's content.
#[derive(Debug, PartialEq)]
pub struct KernelBundle {
    identity: Identity,
    kernels: Vec<CompiledKernel>,
}

/// What compiled them, and for what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Identity {
    version: String,
    /// The program's build id, in hexadecimal digits.
    build: String,
    /// `sm_90`.
    architecture: String,
}

#[derive(Serialize, Deserialize)]
struct Head {
    #[serde(flatten)]
    identity: Identity,
    kernels: Vec<Entry>,
}

/// One kernel's name, and the bytes of its key and of its code.
#[derive(Serialize, Deserialize)]
struct Entry {
    namespace: String,
    key: usize,
    code: usize,
}

impl KernelBundle {
    /// Reads the section.
    ///
    /// # Errors
    /// [`Error::BadModel`]: the section is none.
    pub fn from_section(section: &[u8]) -> Result<Self, Error> {
        let Head { identity, kernels } = SECTION.head(section)?;
        let mut rest = &section[SECTION.body_at(section)?..];
        let mut take = |count: usize| {
            let (taken, others) = rest.split_at_checked(count)?;
            rest = others;
            Some(taken.to_vec())
        };
        let read =
            |Entry { namespace, key, code }| Some(CompiledKernel { namespace, key: take(key)?, code: take(code)? });
        let kernels = kernels.into_iter().map(read).collect::<Option<_>>();
        let kernels = kernels.ok_or_else(|| SECTION.bad("a kernel reaches beyond its end"))?;
        match rest {
            [] => Ok(Self { identity, kernels }),
            more => Err(SECTION.bad(format_args!("{} bytes behind the last kernel", more.len()))),
        }
    }

    /// The section.
    ///
    /// # Errors
    /// [`Error::BadModel`]: there is too much of it.
    pub fn to_section(&self) -> Result<Vec<u8>, Error> {
        let entry = |kernel: &CompiledKernel| Entry {
            namespace: kernel.namespace.clone(),
            key: kernel.key.len(),
            code: kernel.code.len(),
        };
        let kernels = self.kernels.iter().map(entry).collect();
        let mut section = SECTION.begin(&Head { identity: self.identity.clone(), kernels })?;
        self.kernels.iter().for_each(|kernel| section.extend(kernel.key.iter().chain(&kernel.code)));
        Ok(section)
    }

    /// The kernels.
    pub fn kernels(&self) -> &[CompiledKernel] {
        &self.kernels
    }
}

/// A build without CUDA: opening such a device says so.
///
/// # Errors
/// None.
#[cfg(not(feature = "cuda"))]
pub fn adopt_kernels(_: &Snapshot, _: ComputeDevice) -> Result<usize, Error> {
    Ok(0)
}

/// As [`adopt_kernels`].
#[cfg(not(feature = "cuda"))]
pub(crate) fn compute(_: &Arc<Snapshot>, device: ComputeDevice) -> Result<Vec<u8>, Error> {
    device.open()?;
    Err(none_for(device))
}

fn none_for(device: ComputeDevice) -> Error {
    Error::Unsupported(format!("kernels for {device}: only those for CUDA are compiled ahead"))
}

#[cfg(test)]
mod tests;
