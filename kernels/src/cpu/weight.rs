//! A weight as the kernels see it: bytes whose length has been checked once.
//!
//! **Invariant:** `bytes` are as many as packing, format and shape need, so `k` is a multiple of the format's block (packed: of
//! its chunk): the kernels that read through pointers rely on it.

use super::scratch;
use crate::packing::tile_bytes;
use crate::{Format, Packing, TILE_ROWS, watch};

/// `[n, k]` in `format`, laid out as `packing` says.
#[derive(Clone, Copy)]
pub(crate) struct Weight<'a> {
    bytes: &'a [u8],
    format: Format,
    packing: Packing,
    n: usize,
    k: usize,
    /// Of a row, or of a tile.
    part_bytes: usize,
}

impl<'a> Weight<'a> {
    /// Row by row; `None` where the length of `bytes` does not fit.
    #[cfg(test)]
    pub fn new(bytes: &'a [u8], format: Format, n: usize, k: usize) -> Option<Self> {
        Self::packed(bytes, format, Packing::Rows, n, k)
    }

    /// `None` where the length of `bytes` does not fit.
    pub fn packed(bytes: &'a [u8], format: Format, packing: Packing, n: usize, k: usize) -> Option<Self> {
        let part_bytes = match packing {
            Packing::Rows => format.row_bytes(k)?,
            Packing::Tiles16 => tile_bytes(format, k)?,
        };
        (packing.bytes(format, n, k)? == bytes.len()).then_some(Self { bytes, format, packing, n, k, part_bytes })
    }

    pub fn packing(&self) -> Packing {
        self.packing
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn n(&self) -> usize {
        self.n
    }

    pub fn k(&self) -> usize {
        self.k
    }

    /// Tile `tile` of a packed weight.
    #[cfg(target_arch = "x86_64")]
    pub fn tile(&self, tile: usize) -> &'a [u8] {
        debug_assert_eq!(self.packing, Packing::Tiles16);
        &self.bytes[tile * self.part_bytes..][..self.part_bytes]
    }

    /// Writes row `row` as floats to `out`.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        watch::announce_gathered(|| self.stored(row..row + 1));
        match self.packing {
            Packing::Rows => self.format.dequantize_row(self.row(row), out),
            Packing::Tiles16 => {
                let count = self.format.row_bytes(self.k).expect("checked when it was made");
                scratch::with(|scratch| {
                    let stored = scratch.row(count);
                    self.packing.row(self.format, self.k, self.bytes, row, stored);
                    self.format.dequantize_row(stored, out);
                });
            }
        }
    }

    /// What is stored of some rows; of a packed weight, of the tiles that hold them.
    pub fn stored(&self, rows: std::ops::Range<usize>) -> &'a [u8] {
        let parts = match self.packing {
            Packing::Rows => rows,
            Packing::Tiles16 => rows.start / TILE_ROWS..rows.end.div_ceil(TILE_ROWS),
        };
        &self.bytes[parts.start * self.part_bytes..parts.end * self.part_bytes]
    }

    /// Rows of a weight that is not packed.
    #[cfg(target_arch = "x86_64")]
    pub fn rows(&self, rows: std::ops::Range<usize>) -> &'a [u8] {
        debug_assert_eq!(self.packing, Packing::Rows);
        &self.bytes[rows.start * self.part_bytes..rows.end * self.part_bytes]
    }

    pub fn row(&self, row: usize) -> &'a [u8] {
        debug_assert_eq!(self.packing, Packing::Rows);
        &self.bytes[row * self.part_bytes..][..self.part_bytes]
    }
}
