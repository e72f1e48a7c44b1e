//! What this machine can do at most, measured: bytes read from memory, and products of matrices' numbers.
//!
//! **Contract:** everything runs on the kernels' own threads with their own instruction set, so that what a kernel reaches can be
//! divided by what is measured here. `unsafe` is in `arithmetic` (instructions) and `memory` (a prefetch). **Absent:** how often to measure, and which of several measurements counts.

mod arithmetic;
mod memory;

pub use arithmetic::Arithmetic;
pub use memory::Memory;

/// The threads of the kernels, on which everything here is measured.
pub fn threads() -> usize {
    crate::cpu::pool::pool().threads()
}
