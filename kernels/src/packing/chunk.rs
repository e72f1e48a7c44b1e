//! One chunk of a tile: the columns whose scales stand together, of sixteen rows.
//!
//! A chunk is a header and then vectors of 64 bytes. Vector `v` has, row after row, the bytes `4 v` to `4 v + 3` of what the
//! format stores of those columns beside scales; so a lane is a row. Headers, sixteen rows side by side each:
//!
//! | format | columns | header | vectors |
//! |---|---|---|---|
//! | BF16 | 2 | none | 1 |
//! | Q8_0 | 64 | `d` of two blocks, f16 | 16, each number 128 higher |
//! | Q4_0 | 64 | `d` of two blocks, f16 | 8 |
//! | Q4_1 | 32 | `d`, `m`, f16 | 4 |
//! | Q4_K | 256 | `d`, `dmin`, f16; eight scales, eight minima, u8 | 32 |
//! | Q5_K | 256 | as Q4_K | 8 of fifth bits, 32 |
//! | Q6_K | 256 | `d`, f16; sixteen scales, i8; 32 bytes of zeros | 32, 16 of upper bits |

use super::TILE_ROWS;
use crate::Format;

/// Bytes of one f16 of each row.
const HALVES: usize = 2 * TILE_ROWS;
/// Where the scales of Q4_K and Q5_K begin; their minima follow.
pub(crate) const SCALES_4K: usize = 2 * HALVES;
const SMALL_BLOCKS: usize = 8;
const SIXTEENS: usize = 16;

/// How a format's columns are cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chunk {
    format: Format,
    pub columns: usize,
    /// What the format has for them in one row.
    pub row_bytes: usize,
    pub vectors: usize,
}

/// Bytes before a chunk's vectors.
pub(crate) const fn header_bytes(format: Format) -> usize {
    match format {
        Format::Q8_0 | Format::Q4_0 | Format::Q4_1 => 2 * HALVES,
        Format::Q4_K | Format::Q5_K => SCALES_4K + 2 * SMALL_BLOCKS * TILE_ROWS,
        Format::Q6_K => 2 * HALVES + SIXTEENS * TILE_ROWS,
        _ => 0,
    }
}

impl Chunk {
    /// `None` for formats that are multiplied in float32, row by row.
    pub fn of(format: Format) -> Option<Self> {
        let (columns, row_bytes, vectors) = match format {
            Format::BF16 => (2, 4, 1),
            Format::Q8_0 => (64, 68, 16),
            Format::Q4_0 => (64, 36, 8),
            Format::Q4_1 => (32, 20, 4),
            Format::Q4_K => (256, 144, 32),
            Format::Q5_K => (256, 176, 40),
            Format::Q6_K => (256, 210, 48),
            Format::F32 | Format::F16 | Format::Q5_0 | Format::Q5_1 | Format::IQ4_NL | Format::Q2_K | Format::Q3_K => {
                return None;
            }
        };
        Some(Self { format, columns, row_bytes, vectors })
    }

    pub fn tile_bytes(&self) -> usize {
        header_bytes(self.format) + 64 * self.vectors
    }

    /// Writes one row's part to its lane.
    pub fn put(&self, lane: usize, part: &[u8], tile: &mut [u8]) {
        let (header, body) = tile.split_at_mut(header_bytes(self.format));
        let (pieces, flipped) = self.pieces();
        let numbers = pieces.iter().flat_map(|(from, to)| part[*from..*to].iter());
        for (i, byte) in numbers.enumerate() {
            body[i / 4 * 64 + lane * 4 + i % 4] = byte ^ flipped;
        }
        let mut half = |at: usize, from: usize| {
            header[at * HALVES + 2 * lane..][..2].copy_from_slice(&part[from..from + 2]);
        };
        match self.format {
            Format::Q8_0 => {
                half(0, 0);
                half(1, 34);
            }
            Format::Q4_0 => {
                half(0, 0);
                half(1, 18);
            }
            Format::Q4_1 => {
                half(0, 0);
                half(1, 2);
            }
            Format::Q4_K | Format::Q5_K => {
                half(0, 0);
                half(1, 2);
                for (i, six) in unpack_six_bits(&part[4..16]).into_iter().enumerate() {
                    header[SCALES_4K + i * TILE_ROWS + lane] = six;
                }
            }
            Format::Q6_K => {
                half(0, 208);
                for i in 0..SIXTEENS {
                    header[HALVES + i * TILE_ROWS + lane] = part[192 + i];
                }
            }
            _ => {}
        }
    }

    /// Reads one row's part from its lane: the reverse of [`Chunk::put`].
    pub fn take(&self, lane: usize, tile: &[u8], part: &mut [u8]) {
        let (header, body) = tile.split_at(header_bytes(self.format));
        let (pieces, flipped) = self.pieces();
        for (i, at) in pieces.iter().flat_map(|(from, to)| *from..*to).enumerate() {
            part[at] = body[i / 4 * 64 + lane * 4 + i % 4] ^ flipped;
        }
        let mut half = |at: usize, to: usize| {
            part[to..to + 2].copy_from_slice(&header[at * HALVES + 2 * lane..][..2]);
        };
        match self.format {
            Format::Q8_0 => {
                half(0, 0);
                half(1, 34);
            }
            Format::Q4_0 => {
                half(0, 0);
                half(1, 18);
            }
            Format::Q4_1 => {
                half(0, 0);
                half(1, 2);
            }
            Format::Q4_K | Format::Q5_K => {
                half(0, 0);
                half(1, 2);
                let six = std::array::from_fn(|i| header[SCALES_4K + i * TILE_ROWS + lane]);
                part[4..16].copy_from_slice(&pack_six_bits(six));
            }
            Format::Q6_K => {
                half(0, 208);
                for i in 0..SIXTEENS {
                    part[192 + i] = header[HALVES + i * TILE_ROWS + lane];
                }
            }
            _ => {}
        }
    }

    /// Where in a row's part the numbers are, in their order, and what they are changed by: `vpdpbusd` and `vpmaddubsw` take weights unsigned.
    fn pieces(&self) -> (&'static [(usize, usize)], u8) {
        match self.format {
            Format::Q8_0 => (&[(2, 34), (36, 68)], 0x80),
            Format::Q4_0 => (&[(2, 18), (20, 36)], 0),
            Format::Q4_1 => (&[(4, 20)], 0),
            Format::Q4_K => (&[(16, 144)], 0),
            Format::Q5_K => (&[(16, 176)], 0),
            Format::Q6_K => (&[(0, 192)], 0),
            _ => (&[(0, 4)], 0),
        }
    }
}

/// Eight scales, then eight minima, out of twelve bytes.
fn unpack_six_bits(bytes: &[u8]) -> [u8; 2 * SMALL_BLOCKS] {
    std::array::from_fn(|i| match (i / SMALL_BLOCKS, i % SMALL_BLOCKS) {
        (0, i @ 0..4) => bytes[i] & 63,
        (0, i) => bytes[i + 4] & 15 | bytes[i - 4] >> 6 << 4,
        (_, i @ 0..4) => bytes[i + 4] & 63,
        (_, i) => bytes[i + 4] >> 4 | bytes[i] >> 6 << 4,
    })
}

fn pack_six_bits(six: [u8; 2 * SMALL_BLOCKS]) -> [u8; 12] {
    let (scales, minima) = six.split_at(SMALL_BLOCKS);
    std::array::from_fn(|i| match i {
        0..4 => scales[i] | scales[i + 4] >> 4 << 6,
        4..8 => minima[i - 4] | minima[i] >> 4 << 6,
        _ => scales[i - 4] & 15 | minima[i - 4] << 4,
    })
}
