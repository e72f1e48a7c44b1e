//! `x [m, k] · w [n, k]ᵀ → [m, n]`, whatever the weight's format.
//!
//! The outputs are cut into tiles of [`TILE`] weight rows; a task is a few tiles and all rows of
//! `x`, so a weight is read and unpacked once a call. Weights that multiply the same `x` go in one
//! call: it is quantised once for them, and the threads are called together once.

use super::activations::{Activations, Pairs, Wanted};
use super::dispatch::{Level, On};
use super::shared::Shared;
use super::weight::Weight;
use super::{floats, portable, scratch};
use crate::format::BLOCK;
use crate::{Format, Packing};
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512, tiles};

/// Weight rows that are worked on together.
pub(super) const TILE: usize = 16;
/// Tasks that a call is cut into, for each thread: enough that one which loses its processor for a while leaves the rest to
/// the others.
const TASKS_PER_THREAD: usize = 6;
/// The same where a weight is read for few rows of `x`: the first tile of a task comes from memory unannounced, so that many
/// small tasks cost more than they balance (measured: 4.5 ms a token in the layers of SmolLM2 with 6, 3.9 ms with 2).
const TASKS_PER_THREAD_FEW_ROWS: usize = 2;
/// Tiles that packed weights are cut into multiples of.
const TILES_TOGETHER: usize = 4;
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
    let takes = parts.each_ref().map(|(w, _)| Takes::of(w, on.level, x.len() / k));
    let mut prepared: Vec<(Takes, Prepared)> = Vec::new();
    for takes in takes {
        if !prepared.iter().any(|(have, _)| *have == takes) {
            prepared.push((takes, takes.prepare(on, x, k)));
        }
    }
    let tiles: usize = parts.iter().map(|(w, _)| w.n().div_ceil(TILE)).sum();
    let tasks = if x.len() / k <= FEW_ROWS { TASKS_PER_THREAD_FEW_ROWS } else { TASKS_PER_THREAD };
    // Whole tiles, and of packed weights as many as are worked on together.
    let rows = TILE * tiles.div_ceil(on.pool.threads() * tasks).next_multiple_of(TILES_TOGETHER);
    let mut first = 0;
    let mut takes = takes.into_iter();
    let parts = parts.map(|(w, out)| {
        let takes = takes.next();
        let x = prepared.iter().find(|(have, _)| Some(*have) == takes).map(|(_, x)| x).expect("all were prepared");
        let tasks = first..first + w.n().div_ceil(rows);
        first = tasks.end;
        Part { w, x, out: Shared::new(out), tasks }
    });
    on.pool.run(first, &|i| {
        let part = parts.iter().find(|part| part.tasks.contains(&i)).expect("tasks are the parts' tasks");
        let start = (i - part.tasks.start) * rows;
        part.run(on.level, start..part.w.n().min(start + rows));
    });
}

/// One weight of a call.
struct Part<'a> {
    w: &'a Weight<'a>,
    x: &'a Prepared<'a>,
    out: Shared<'a, f32>,
    tasks: Range<usize>,
}

impl Part<'_> {
    /// Computes the outputs of the weight rows `rows`, which begin at a whole tile.
    fn run(&self, level: Level, rows: Range<usize>) {
        let (w, out) = (self.w, &self.out);
        #[cfg(target_arch = "x86_64")]
        if w.packing() == Packing::Tiles16 {
            let tiles = rows.start / TILE..rows.end.div_ceil(TILE);
            return scratch::with(|scratch| match self.x {
                // SAFETY: packed weights are taken only where the processor has AVX-512 and VNNI ([`Takes::of`]).
                Prepared::Blocks(x) => unsafe { tiles::blocks(x, w, tiles, scratch, out) },
                // SAFETY: as above, with BF16.
                Prepared::Pairs(x) => unsafe { tiles::bf16(x, w, tiles, out) },
                Prepared::Floats(_) => unreachable!("no packed weight takes floats"),
            });
        }
        scratch::with(|scratch| match (self.x, level) {
            (Prepared::Floats(x), _) => floats::tiles(level, x, w, rows, scratch, out),
            (Prepared::Pairs(_), _) => unreachable!("rows are not multiplied in pairs"),
            (Prepared::Blocks(x), Level::Portable) => portable::tiles(x, w, rows, scratch, out),
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a level exists only where the processor has it.
            (Prepared::Blocks(x), Level::Avx2) => unsafe { avx2::tiles(x, w, rows, scratch, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            (Prepared::Blocks(x), Level::Avx512) => unsafe { avx512::tiles(x, w, rows, scratch, out) },
        });
    }
}

/// What a weight is multiplied by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Takes {
    /// `x` as it is.
    Floats,
    /// `x` in 8 bits.
    Blocks(Wanted),
    /// `x` in bfloat16.
    Pairs { width: usize },
}

/// `x` as some weights take it.
enum Prepared<'a> {
    Floats(&'a [f32]),
    Blocks(Activations),
    Pairs(Pairs),
}

impl Takes {
    /// For `rows` rows of `x`.
    fn of(w: &Weight, level: Level, rows: usize) -> Self {
        match w.packing() {
            Packing::Rows => zero(w.format(), level)
                .map_or(Self::Floats, |zero| Self::Blocks(Wanted { width: width(level), zero, unit: BLOCK })),
            Packing::Tiles16 => Self::of_tiles(w.format(), level, rows),
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn of_tiles(format: Format, level: Level, rows: usize) -> Self {
        assert!(level.takes_tiles(format), "packed weights of {} for another processor", format.name());
        match format {
            Format::BF16 => Self::Pairs { width: tiles::width(rows) },
            _ => Self::Blocks(Wanted {
                width: tiles::width(rows),
                zero: tiles::zero(format),
                unit: tiles::unit_columns(format),
            }),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn of_tiles(format: Format, _: Level, _: usize) -> Self {
        panic!("packed weights of {} for another processor", format.name())
    }

    fn prepare<'a>(&self, on: On, x: &'a [f32], k: usize) -> Prepared<'a> {
        match *self {
            Self::Floats => Prepared::Floats(x),
            Self::Blocks(wanted) => Prepared::Blocks(Activations::new(on, x, k, wanted)),
            Self::Pairs { width } => Prepared::Pairs(Pairs::new(on, x, k, width)),
        }
    }
}

/// How much higher than meant the integers of a format in blocks reach the multiplication.
pub(crate) fn zero(format: Format, level: Level) -> Option<i32> {
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
