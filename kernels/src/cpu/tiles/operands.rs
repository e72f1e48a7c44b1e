//! What a few tiles are multiplied by at once.

use crate::cpu::activations::{GROUPS, Panel};
use std::ops::Range;

/// `R` rows of `x` and what is known of each of their blocks, as arrays whose lengths the compiler knows.
pub(super) struct OfX<'a, const R: usize> {
    pub fours: &'a [[[[i8; 4]; R]; GROUPS]],
    pub d: &'a [[f32; R]],
    pub sum: &'a [[f32; R]],
    /// One for each unit.
    pub start: &'a [[i32; R]],
}

impl<'a, const R: usize> OfX<'a, R> {
    pub fn new(x: &Panel<'a>) -> Self {
        Self {
            fours: x.fours.as_chunks::<R>().0.as_chunks::<GROUPS>().0,
            d: x.d.as_chunks::<R>().0,
            sum: x.sum.as_chunks::<R>().0,
            start: x.start.as_chunks::<R>().0,
        }
    }
}

/// Units of a row that are multiplied together, of so many.
pub(super) struct Part {
    pub units: Range<usize>,
    pub of: usize,
}
