//! Kernels as a device's compiler left them.

#[cfg(feature = "cuda")]
mod kept;

#[cfg(feature = "cuda")]
pub use kept::{adopt, build, compiled, keep};

/// One of them. Order: by namespace, then key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CompiledKernel {
    /// What it was compiled for: CubeCL's version, the device's architecture, the compiler.
    pub namespace: String,
    /// Which kernel, of which build of the program.
    pub key: Vec<u8>,
    /// PTX, and how it is launched.
    pub code: Vec<u8>,
}
