//! The kernels for processors: plain slices in, plain slices out.
//!
//! **Invariants:** knows no Burn tensor. A row's result has the same bits alone, among few or
//! among many rows, and on any number of threads: each output is accumulated in one order, which
//! depends on the instruction set alone. No weight is ever converted as a whole: what a thread
//! unpacks is a tile of a few rows, in a scratch that stays in its cache.
//!
//! `unsafe` is in `pool` (a job is lent to threads), `shared` (threads write disjoint parts of one
//! output; each use, in `activations`, `attention`, `elementwise`, `fused` and `kv`, says why), `tile` (unchecked reads), `vector`,
//! `avx2`, `avx512`, `avx512_load`, `activations_avx512` and `tiles` (intrinsics, and with AVX2 two lines of assembly), and where a function of an instruction set
//! is called: `dispatch`, `vector`, `activations` and `linear`. The rest is safe code.

pub(crate) mod activations;
#[cfg(target_arch = "x86_64")]
mod activations_avx512;
pub(crate) mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_load;
pub(crate) mod dispatch;
pub(crate) mod elementwise;
mod floats;
pub(crate) mod fused;
pub(crate) mod kv;
mod lanes;
pub(crate) mod linear;
pub(crate) mod pool;
mod portable;
mod scratch;
pub(crate) mod shared;
mod shares;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tile;
#[cfg(target_arch = "x86_64")]
mod tiles;
pub(crate) mod topk;
pub(crate) mod vector;
pub(crate) mod weight;
