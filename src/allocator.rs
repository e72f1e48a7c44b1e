//! How glibc's allocator keeps freed memory. It gives every thread an arena of its own, up to eight a core, and each keeps
//! the peak it once had; a process that must stay small for months has few.
#![allow(unsafe_code)]

/// Arenas of the activator's process: its few threads share them, and hardly ever at the same time.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const ARENAS_MAX: i32 = 2;

/// Keeps this process's heap small and flat. Call once, before threads start.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn keep_small() {
    // SAFETY: mallopt only sets a parameter of the allocator, under its own lock; no memory of ours is involved.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, ARENAS_MAX) };
}

/// Other C libraries have no arenas to bound.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn keep_small() {}
