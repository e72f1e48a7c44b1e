//! How the columns of each packed format are multiplied, whatever the instructions.

use crate::Format;
use crate::packing::header_bytes;

pub(super) const Q8_0: u8 = Format::Q8_0 as u8;
pub(super) const Q4_0: u8 = Format::Q4_0 as u8;
pub(super) const Q4_1: u8 = Format::Q4_1 as u8;
pub(super) const Q4_K: u8 = Format::Q4_K as u8;
pub(super) const Q5_K: u8 = Format::Q5_K as u8;
pub(super) const Q6_K: u8 = Format::Q6_K as u8;

/// How the columns of a chunk are multiplied.
pub(super) struct Shape {
    /// Bytes of a chunk.
    pub chunk: usize,
    pub header: usize,
    /// Units of a chunk.
    pub units: usize,
    /// Groups of four columns in a unit.
    pub groups: usize,
    pub has_minimum: bool,
}

pub(super) const fn shape(format: u8) -> Shape {
    let (name, vectors, units, groups, has_minimum) = match format {
        Q8_0 => (Format::Q8_0, 16, 2, 8, false),
        Q4_0 => (Format::Q4_0, 8, 2, 8, false),
        Q4_1 => (Format::Q4_1, 4, 1, 8, true),
        Q4_K => (Format::Q4_K, 32, 8, 8, true),
        Q5_K => (Format::Q5_K, 40, 8, 8, true),
        _ => (Format::Q6_K, 48, 16, 4, false),
    };
    let header = header_bytes(name);
    Shape { chunk: header + 64 * vectors, header, units, groups, has_minimum }
}

/// Cache lines of a chunk.
pub(super) const fn lines_of<const F: u8>() -> usize {
    shape(F).chunk.div_ceil(64)
}

/// Columns of a unit: as many activations have a sum of their own.
pub(in crate::cpu) fn unit_columns(format: Format) -> usize {
    if format == Format::Q6_K { 16 } else { 32 }
}

/// How much higher than meant the integers are.
pub(in crate::cpu) fn zero(format: Format) -> i32 {
    match format {
        Format::Q8_0 => 128,
        Format::Q4_0 => 8,
        Format::Q6_K => 32,
        _ => 0,
    }
}
