//! The snapshot's section `kernels`: what the compiler of a CUDA device made of the kernels that a model uses, so that no start compiles them
//! once more. It begins as `headed.rs` says, with the magic 89 50 4C 54 4B 52 4E 0A; its JSON has what they were compiled by and for and each
//! one's lengths; its bytes are their keys and code, one after the other.
//!
//! **Contract:** what another build of this program made, or for another architecture or driver, is not used, which is said. Kernels that a
//! model turns out to need beside those are compiled when it does. The code runs on the device as it is: like the weights, it is trusted.
//! Tested with a stand-in for the driver; not run on a GPU.

use crate::headed::Headed;
use crate::{ComputeDevice, Error};
use kernels::compiled::{Compiled, CompiledKernel};
use serde::{Deserialize, Serialize};
#[cfg(not(feature = "cuda"))]
use {snapshot::Snapshot, std::sync::Arc};

#[cfg(feature = "cuda")]
mod device;
#[cfg(feature = "cuda")]
pub(crate) use device::Compiler;
#[cfg(feature = "cuda")]
pub use device::adopt_kernels;

const SECTION: Headed = Headed { magic: *b"\x89PLTKRN\n", name: "kernels" };

/// The section's content.
#[derive(Debug, PartialEq)]
pub struct KernelBundle {
    identity: Identity,
    compiled: Compiled,
}

/// What compiled them, and for what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Identity {
    version: String,
    /// The program's build id, in hexadecimal digits.
    build: String,
    /// `sm_90`.
    architecture: String,
    /// What the driver says of itself: a thousand for each major version, ten for each minor one.
    driver: i32,
}

#[derive(Serialize, Deserialize)]
struct Head {
    #[serde(flatten)]
    identity: Identity,
    namespace: String,
    /// Bytes of each one's key and of its code.
    kernels: Vec<(usize, usize)>,
}

impl KernelBundle {
    /// Reads the section.
    ///
    /// # Errors
    /// [`Error::BadModel`]: the section is none.
    pub fn from_section(section: &[u8]) -> Result<Self, Error> {
        let Head { identity, namespace, kernels } = SECTION.head(section)?;
        let mut rest = &section[SECTION.body_at(section)?..];
        let mut take = |count: usize| {
            let (taken, others) = rest.split_at_checked(count)?;
            rest = others;
            Some(taken.to_vec())
        };
        let read = |(key, code)| Some(CompiledKernel { key: take(key)?, code: take(code)? });
        let kernels = kernels.into_iter().map(read).collect::<Option<_>>();
        let kernels = kernels.ok_or_else(|| SECTION.bad("a kernel reaches beyond its end"))?;
        match rest {
            [] => Ok(Self { identity, compiled: Compiled { namespace, kernels } }),
            more => Err(SECTION.bad(format_args!("{} bytes behind the last kernel", more.len()))),
        }
    }

    /// The section.
    ///
    /// # Errors
    /// [`Error::BadModel`]: there is too much of it.
    pub fn to_section(&self) -> Result<Vec<u8>, Error> {
        let Compiled { namespace, kernels } = &self.compiled;
        let lengths = kernels.iter().map(|kernel| (kernel.key.len(), kernel.code.len())).collect();
        let head = Head { identity: self.identity.clone(), namespace: namespace.clone(), kernels: lengths };
        let mut section = SECTION.begin(&head)?;
        kernels.iter().for_each(|kernel| section.extend(kernel.key.iter().chain(&kernel.code)));
        Ok(section)
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
pub(crate) enum Compiler {}

#[cfg(not(feature = "cuda"))]
impl Compiler {
    pub(crate) fn of(device: ComputeDevice) -> Result<Self, Error> {
        device.open()?;
        Err(none_for(device))
    }

    pub(crate) fn section(&self, _: &Arc<Snapshot>) -> Result<Vec<u8>, Error> {
        match *self {}
    }
}

fn none_for(device: ComputeDevice) -> Error {
    Error::Unsupported(format!("kernels for {device}: only those for CUDA are compiled ahead"))
}

#[cfg(test)]
mod tests;
