//! `x [m, k] · w [n, k]ᵀ → [m, n]`, whatever the weight's format.
//!
//! The outputs are cut into tiles of [`TILE`] weight rows; a task is a few tiles and all rows of
//! `x`, so a weight is read and unpacked once a call. Weights that multiply the same `x` go in one
//! call: it is quantised once for them, and the threads are called together once.

use super::activations::Activations;
use super::dispatch::{Level, On};
use super::shared::Shared;
use super::weight::Weight;
use super::{floats, portable, scratch};
use crate::Format;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512};

/// Weight rows that are worked on together.
pub(super) const TILE: usize = 16;
/// Tasks that a call is cut into, for each thread: enough that one which loses its processor for a while leaves the rest to
/// the others.
const TASKS_PER_THREAD: usize = 6;
/// The same where a weight is read for few rows of `x`: the first tile of a task comes from memory unannounced, so that many
/// small tasks cost more than they balance (measured: 4.5 ms a token in the layers of SmolLM2 with 6, 3.9 ms with 2).
const TASKS_PER_THREAD_FEW_ROWS: usize = 2;
/// Up to so many rows of `x` are few.
const FEW_ROWS: usize = 8;

/// Writes `x · wᵀ` to `out` for each weight and its output, all of one `k`; `x` has as many rows of `k` as each `out` has of
/// `w.n()`. The bits are those of one call for each.
pub(crate) fn linears<const W: usize>(on: On, x: &[f32], parts: [(&Weight, &mut [f32]); W]) {
    let Some(k) = parts.first().map(|(w, _)| w.k()) else { return };
    if x.is_empty() || k == 0 {
        return parts.into_iter().for_each(|(_, out)| out.fill(0.0));
    }
    for (w, out) in &parts {
        assert_eq!(w.k(), k, "columns of the weights");
        assert_eq!(x.len() / k, out.len() / w.n(), "rows of x and of out");
    }
    let zeros = parts.each_ref().map(|(w, _)| zero(w.format(), on.level));
    let mut quantised: Vec<(i32, Activations)> = Vec::new();
    for zero in zeros.into_iter().flatten() {
        if !quantised.iter().any(|(have, _)| *have == zero) {
            quantised.push((zero, Activations::new(on, x, k, width(on.level), zero)));
        }
    }
    let tiles: usize = parts.iter().map(|(w, _)| w.n().div_ceil(TILE)).sum();
    let tasks = if x.len() / k <= FEW_ROWS { TASKS_PER_THREAD_FEW_ROWS } else { TASKS_PER_THREAD };
    let rows = TILE * tiles.div_ceil(on.pool.threads() * tasks);
    let mut first = 0;
    let mut zeros = zeros.into_iter();
    let parts = parts.map(|(w, out)| {
        let zero = zeros.next().flatten();
        let x = quantised.iter().find(|(have, _)| Some(*have) == zero).map(|(_, x)| x);
        let tasks = first..first + w.n().div_ceil(rows);
        first = tasks.end;
        Part { w, x, out: Shared::new(out), tasks }
    });
    on.pool.run(first, &|i| {
        let part = parts.iter().find(|part| part.tasks.contains(&i)).expect("tasks are the parts' tasks");
        let start = (i - part.tasks.start) * rows;
        part.run(on.level, x, start..part.w.n().min(start + rows));
    });
}

/// One weight of a call.
struct Part<'a> {
    w: &'a Weight<'a>,
    /// For weights in blocks; the others take `x` as it is.
    x: Option<&'a Activations>,
    out: Shared<'a, f32>,
    tasks: Range<usize>,
}

impl Part<'_> {
    /// Computes the outputs of the weight rows `rows`, which begin at a whole tile.
    fn run(&self, level: Level, floats: &[f32], rows: Range<usize>) {
        let (w, out) = (self.w, &self.out);
        scratch::with(|scratch| match (self.x, level) {
            (None, _) => floats::tiles(level, floats, w, rows, scratch, out),
            (Some(x), Level::Portable) => portable::tiles(x, w, rows, scratch, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a level exists only where the processor has it.
            (Some(x), Level::Avx2) => unsafe { avx2::tiles(x, w, rows, scratch, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            (Some(x), Level::Avx512) => unsafe { avx512::tiles(x, w, rows, scratch, out) },
        });
    }
}

/// How much higher than meant the integers of a format in blocks reach the multiplication.
fn zero(format: Format, level: Level) -> Option<i32> {
    match (format, level) {
        (Format::F32 | Format::F16 | Format::BF16, _) => None,
        // Unpacked a few rows at a time and multiplied in float32: kernels of their own are to come.
        (Format::Q5_0 | Format::Q5_1 | Format::IQ4_NL, _) => None,
        (Format::Q2_K | Format::Q3_K | Format::Q4_K | Format::Q5_K | Format::Q6_K, _) => None,
        (Format::Q4_0, _) => Some(8),
        #[cfg(target_arch = "x86_64")]
        (Format::Q8_0, Level::Avx512) => Some(128),
        (Format::Q8_0 | Format::Q4_1, _) => Some(0),
    }
}

fn width(level: Level) -> usize {
    match level {
        Level::Portable => 1,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => avx2::WIDTH,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => avx512::WIDTH,
    }
}
