//! Every kernel, at every level this processor has, against float64 references.
#![allow(clippy::unwrap_used)]

mod attention;
mod linear;
mod packed;
mod pool;
mod quantize;

use super::dispatch::{Level, On};
use super::pool::Pool;
use std::cell::RefCell;
use std::collections::HashMap;

/// Numbers between -1 and 1 that look random and are the same on every run.
pub(super) fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

thread_local! {
    static POOLS: RefCell<HashMap<usize, &'static Pool>> = RefCell::default();
}

/// A pool of this test's own; pools live as long as the process, so each is made once.
pub(super) fn pool(threads: usize) -> &'static Pool {
    POOLS.with_borrow_mut(|pools| {
        let new = || Box::leak(Box::new(Pool::new(threads)));
        *pools.entry(threads).or_insert_with(|| new())
    })
}

/// Runs `f` at every level with a pool of `threads`.
pub(super) fn at_every_level(threads: usize, mut f: impl FnMut(On)) {
    for level in Level::available() {
        let pool = pool(threads);
        f(On { level, pool });
    }
}
