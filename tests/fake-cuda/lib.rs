//! A stand-in for NVIDIA's driver library, `libcuda.so`, for machines without a GPU: what copies memory and orders work is as asynchronous
//! as the real one, and tells on who does not wait for it.
//!
//! **What it does:** streams are threads; copies wait a while and then go bit by bit; events, pinned and device memory, modules and functions
//! are there. Kernels are not run: a launch does nothing. **What it catches** (`fakeCudaMisuse`): host memory that changes, or is freed, while a
//! copy reads it; device memory freed under a copy; copies beyond an allocation. Copies from memory that is not pinned are taken at once,
//! as the real driver does, and counted.
//!
//! Variables of the environment: `FAKE_CUDA_ARCH` (80 or 90, the default: the compute capability, times ten), `FAKE_CUDA_DELAY_US` (how long a copy
//! waits, 300 unless said), `FAKE_CUDA_PTX` (a folder that gets the source of every module that is loaded).
//!
//! Built by `scripts/check-fake-cuda` with `rustc --crate-type cdylib`; it has no dependencies. The functions have the names, arguments and
//! results of the driver API's reference.
#![allow(non_snake_case, clippy::missing_safety_doc)]

mod context;
mod copies;
mod events;
mod memory;
mod misuse;
mod modules;
mod streams;

/// `CUresult`.
pub type Status = i32;
pub const SUCCESS: Status = 0;
pub const INVALID_VALUE: Status = 1;
pub const OUT_OF_MEMORY: Status = 2;
pub const INVALID_DEVICE: Status = 101;
pub const INVALID_HANDLE: Status = 400;
pub const NOT_READY: Status = 600;

/// A variable of the environment as a number.
pub fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(otherwise)
}
