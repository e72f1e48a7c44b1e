//! How the allocator treats a step's intermediate results. One of the six files of this crate with `unsafe`.
#![allow(unsafe_code)]

/// The most that glibc's allocator can be told to serve from the heap.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const HEAP_BYTES_MAX: libc::c_int = 32 << 20;
/// Free memory at the heap's end that is kept: about what a step of 512 rows of a small model takes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const KEPT_BYTES: libc::c_int = 64 << 20;

/// A step allocates and frees the same megabytes layer after layer. Left alone, glibc maps and unmaps them each time, and a fifth
/// of a prefill's time goes to page faults (measured on SmolLM2); told so, it keeps them.
pub fn keep_what_is_freed() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    for (parameter, value) in [
        (libc::M_MMAP_THRESHOLD, HEAP_BYTES_MAX),
        (libc::M_TRIM_THRESHOLD, KEPT_BYTES),
        (libc::M_TOP_PAD, 1 << 20),
        // One heap, so that what one thread frees another uses.
        (libc::M_ARENA_MAX, 1),
    ] {
        // SAFETY: sets a number in the allocator, which it may be told at any time; where it refuses nothing changes.
        unsafe { libc::mallopt(parameter, value) };
    }
}
