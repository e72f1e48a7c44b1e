//! Our custom Burn operations: what a language model needs and Burn has not, or not fast enough.
//!
//! **Contract:** [`linear`], [`gather`] and [`attention`] over weights as they are stored and over
//! keys and values in blocks, and the small operations between them ([`rms_norm`], [`rotate`],
//! [`silu_mul`], [`gelu_mul`], [`top_k`]); [`limits`] measures what the machine allows them. Knows no model, no file and no text; does no I/O.
//!
//! **Invariants:** a row's result has the same bits alone, among few or among many rows, and on
//! any number of threads of one instruction set. With f32 weights and f32 keys and values the
//! arithmetic is float32 throughout. No weight is ever converted as a whole.
//!
//! The operations are one trait over Burn's backends, [`Kernels`]. It is implemented for the CPU
//! backend (`Flex`), with AVX-512 (VNNI), AVX2 or portable code chosen at run time, and with feature
//! `cuda` or `vulkan` for CubeCL's devices. The latter is tested on a Vulkan device made of software
//! and was not run on a GPU.
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod compiled;
mod cpu;
#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod direct;
mod elementwise;
mod error;
mod flex;
mod format;
mod fused;
mod kv;
pub mod limits;
mod matrix;
mod ops;
mod packing;
mod topk;
mod upload;
pub mod watch;

pub use elementwise::{gelu_mul, rms_norm, rotate, silu_mul};
pub use error::Error;
pub use format::Format;
pub use fused::{Norm, linear_add, norm_gate, norm_linear_3};
pub use kv::{BLOCK_TOKENS, KvFormat, KvLayer};
pub use matrix::Matrix;
pub use ops::{Gate, Kernels, MatrixShape, Scores, Segment, attention, gather, linear, linear_2, linear_3};
pub use packing::{Packing, TILE_ROWS};
pub use topk::{top_k, top_k_of_row};
pub use upload::{Place, takes_uploads, upload};

/// Threads the kernels use, the caller's included; has an effect only before the first operation.
/// `false` where it came too late. Without it there are as many as the machine offers.
pub fn set_threads(n: usize) -> bool {
    cpu::pool::configure(n)
}

/// Lets the kernels use these instructions at most, one of [`instruction_sets`]; has an effect only before the first operation.
/// For comparisons and tests: without it the best are used.
///
/// # Errors
/// This processor has no such instructions, or it came too late.
pub fn set_instruction_set(name: &str) -> Result<(), String> {
    cpu::dispatch::Level::configure(name)
}

/// The instruction sets of this processor, the best last.
pub fn instruction_sets() -> Vec<&'static str> {
    cpu::dispatch::Level::available().into_iter().map(cpu::dispatch::Level::name).collect()
}

/// Whether [`linear`] multiplies weights that are packed so, on this processor.
pub fn takes(packing: Packing) -> bool {
    match packing {
        Packing::Rows => true,
        Packing::Tiles16 => cpu::dispatch::Level::best().takes_tiles(),
    }
}

/// The instruction set chosen at run time: `avx512-vnni`, `avx2` or `portable`.
pub fn instruction_set() -> &'static str {
    cpu::dispatch::Level::best().name()
}
