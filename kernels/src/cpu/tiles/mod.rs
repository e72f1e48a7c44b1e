//! Packed weights ([`crate::Packing::Tiles16`]).
//!
//! A lane is a weight row, and the bytes lie in the order in which they are multiplied. The integer sum of a unit (the columns that
//! share a scale) is exact; units are added in their order, by the same instructions for any number of tiles and rows of `x`, so a
//! result has the same bits in any company.

mod ahead;
pub(super) mod avx2;
pub(super) mod avx512;
mod operands;
mod shape;

pub(super) use shape::{unit_columns, zero};
