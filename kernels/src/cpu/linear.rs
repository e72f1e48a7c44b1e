//! `x [m, k] · w [n, k]ᵀ → [m, n]`, whatever the weight's format.
//!
//! The outputs are cut into tiles of [`TILE`] weight rows, and these dealt out to threads; a tile is multiplied with all rows of
//! `x`, so a weight is read and unpacked once a call. Weights that multiply the same `x` go in one call: it is quantised once for
//! them, and the threads are called together once. What is to be done with outputs is done by who has computed them.

use super::activations::{Activations, Pairs, Wanted};
use super::dispatch::{Level, On};
use super::shared::Shared;
use super::weight::Weight;
use super::{floats, portable, scratch};
use crate::format::BLOCK;
use crate::{Format, Packing, watch};
use std::cell::RefCell;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::{avx2, avx512, tiles};

/// Weight rows that are worked on together.
pub(super) const TILE: usize = 16;
/// Tiles that a thread takes at once: as many as packed weights are worked on together, or a multiple.
const TILES_TOGETHER: usize = 4;

/// How the tiles of several weights are numbered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Those of one weight after those of another.
    OneByOne,
    /// A number is one tile of each; they have equally many.
    SideBySide,
}

/// What is done with the outputs of some columns, all rows of them.
type Then<'a, const W: usize> = dyn Fn([&Shared<f32>; W], Range<usize>) + Sync + 'a;

/// Writes `x · wᵀ` to `out` for each weight and its output, all of one `k`; `x` has as many rows of `k` as each `out` has of
/// `w.n()`. The bits are those of one call for each.
pub(crate) fn linears<const W: usize>(on: On, x: &[f32], parts: [(&Weight, &mut [f32]); W]) {
    multiply(on, x, parts, Order::OneByOne, &|_, _| ());
}

/// [`linears`] of one weight, and then `then` for the outputs, some columns of all rows at a time.
pub(crate) fn linear_then(on: On, x: &[f32], (w, out): (&Weight, &mut [f32]), then: &Then<1>) {
    multiply(on, x, [(w, out)], Order::OneByOne, then);
}

/// [`linears`] of two weights of one shape, and then `then` for the outputs of both, some columns of all rows at a time.
pub(crate) fn linear_2_then(on: On, x: &[f32], parts: [(&Weight, &mut [f32]); 2], then: &Then<2>) {
    assert_eq!(parts[0].0.n(), parts[1].0.n(), "weights of one shape");
    multiply(on, x, parts, Order::SideBySide, then);
}

fn multiply<const W: usize>(on: On, x: &[f32], parts: [(&Weight, &mut [f32]); W], order: Order, then: &Then<W>) {
    let Some(k) = parts.first().map(|(w, _)| w.k()) else { return };
    assert!(k > 0 && x.len().is_multiple_of(k), "rows of {k} in {} numbers", x.len());
    for (w, out) in &parts {
        assert_eq!(w.k(), k, "columns of the weights");
        assert_eq!(x.len() / k * w.n(), out.len(), "rows of x and of out");
    }
    if x.is_empty() {
        return;
    }
    let takes = parts.each_ref().map(|(w, _)| Takes::of(w, on.level, x.len() / k));
    PREPARED.with_borrow_mut(|prepared| {
        let kinds = prepared.fill(on, x, k, takes);
        let mut each = kinds.iter().zip(takes);
        let mut first = 0;
        let parts = parts.map(|(w, out)| {
            let (kind, takes) = each.next().expect("as many as parts");
            let start = first;
            first += w.n().div_ceil(TILE);
            Part { w, x: prepared.get(*kind, takes, x), out: Shared::new(out), start }
        });
        let outs = parts.each_ref().map(|part| &part.out);
        let run = |tiles: Range<usize>| match order {
            Order::SideBySide => {
                let columns = tiles.start * TILE..(tiles.end * TILE).min(parts[0].w.n());
                parts.iter().for_each(|part| part.run(on.level, columns.clone()));
                then(outs, columns);
            }
            Order::OneByOne => {
                for part in &parts {
                    let tiles = tiles.start.max(part.start)..tiles.end.min(part.start + part.w.n().div_ceil(TILE));
                    if !tiles.is_empty() {
                        let start = (tiles.start - part.start) * TILE;
                        let columns = start..((tiles.end - part.start) * TILE).min(part.w.n());
                        part.run(on.level, columns.clone());
                        then(outs, columns);
                    }
                }
            }
        };
        let units = if order == Order::SideBySide { parts[0].w.n().div_ceil(TILE) } else { first };
        on.pool.share(units, TILES_TOGETHER, &run);
    });
}

/// One weight of a call.
struct Part<'a> {
    w: &'a Weight<'a>,
    x: Prepared<'a>,
    out: Shared<'a, f32>,
    /// Number of its first tile.
    start: usize,
}

impl Part<'_> {
    /// Computes the outputs of the weight rows `rows`, which begin at a whole tile.
    fn run(&self, level: Level, rows: Range<usize>) {
        let (w, out) = (self.w, &self.out);
        watch::announce(|| w.stored(rows.clone()));
        #[cfg(target_arch = "x86_64")]
        if w.packing() == Packing::Tiles16 {
            let numbers = rows.start / TILE..rows.end.div_ceil(TILE);
            return scratch::with(|scratch| match self.x {
                // SAFETY: a level exists only where the processor has it.
                Prepared::Blocks(x) if level == Level::Avx512 => unsafe {
                    tiles::avx512::blocks(x, w, numbers, scratch, out)
                },
                // SAFETY: packed weights are taken only where the processor has AVX2 or more ([`Takes::of`]).
                Prepared::Blocks(x) => unsafe { tiles::avx2::blocks(x, w, numbers, scratch, out) },
                // SAFETY: pairs are taken only where the processor has AVX-512 with BF16 ([`Takes::of`]).
                Prepared::Pairs(x) => unsafe { tiles::avx512::bf16(x, w, numbers, out) },
                // SAFETY: as for blocks with AVX2.
                Prepared::Floats(x) => unsafe { tiles::avx2::bf16(x, w, numbers, out) },
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

thread_local! {
    /// Memory for `x` as weights take it, so that no call allocates.
    static PREPARED: RefCell<Memory> = RefCell::default();
}

/// `x` in each of the ways in which the weights of a call take it.
#[derive(Default)]
struct Memory {
    kinds: Vec<Kind>,
}

#[derive(Default)]
struct Kind {
    blocks: Activations,
    pairs: Pairs,
}

impl Memory {
    /// For each weight the number of the kind that it takes.
    fn fill<const W: usize>(&mut self, on: On, x: &[f32], k: usize, takes: [Takes; W]) -> [usize; W] {
        let mut kinds = 0;
        let mut numbers = [0; W];
        for (i, wanted) in takes.iter().enumerate() {
            if let Some(same) = takes[..i].iter().position(|before| before == wanted) {
                numbers[i] = numbers[same];
                continue;
            }
            if self.kinds.len() == kinds {
                self.kinds.push(Kind::default());
            }
            let kind = &mut self.kinds[kinds];
            match *wanted {
                Takes::Floats => {}
                Takes::Blocks(wanted) => kind.blocks.fill(on, x, k, wanted),
                Takes::Pairs { width } => kind.pairs.fill(on, x, k, width),
            }
            numbers[i] = kinds;
            kinds += 1;
        }
        numbers
    }

    fn get<'a>(&'a self, kind: usize, takes: Takes, x: &'a [f32]) -> Prepared<'a> {
        match takes {
            Takes::Floats => Prepared::Floats(x),
            Takes::Blocks(_) => Prepared::Blocks(&self.kinds[kind].blocks),
            Takes::Pairs { .. } => Prepared::Pairs(&self.kinds[kind].pairs),
        }
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

/// `x` as a weight takes it.
#[derive(Clone, Copy)]
enum Prepared<'a> {
    Floats(&'a [f32]),
    Blocks(&'a Activations),
    Pairs(&'a Pairs),
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
        assert!(level.takes_tiles(), "packed weights of {} for another processor", format.name());
        let width = if level == Level::Avx512 { tiles::avx512::width(rows) } else { tiles::avx2::WIDTH };
        match format {
            Format::BF16 if level.multiplies_pairs() => Self::Pairs { width },
            Format::BF16 => Self::Floats,
            _ => Self::Blocks(Wanted { width, zero: tiles::zero(format), unit: tiles::unit_columns(format) }),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn of_tiles(format: Format, _: Level, _: usize) -> Self {
        panic!("packed weights of {} for another processor", format.name())
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
