//! Kernels as a device's compiler left them.

#[cfg(feature = "cuda")]
mod kept;

#[cfg(feature = "cuda")]
pub use kept::{adopt, build, compiled, keep};

/// All of one process that were compiled for one kind of device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// What they were compiled by and for, as CubeCL names it: its version, the device's architecture, the compiler and its PTX. Empty where
    /// there are none.
    pub namespace: String,
    /// In order of their keys.
    pub kernels: Vec<CompiledKernel>,
}

/// One of them. Order: by key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CompiledKernel {
    /// Which kernel, of which build of the program.
    pub key: Vec<u8>,
    /// PTX, and how it is launched.
    pub code: Vec<u8>,
}
