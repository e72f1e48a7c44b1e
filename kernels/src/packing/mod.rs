//! How a matrix's bytes are laid out for the kernel that streams them.
//!
//! **Contract:** packing only moves bits: from a packed matrix every row comes back as the numbers it was. Rows are packed sixteen
//! at a time ([`TILE_ROWS`]), so memory while sealing is that of sixteen rows. Scalar code: it runs once, at seal time, or where
//! a snapshot was sealed for another machine. **Absent:** any arithmetic.

mod chunk;

pub(crate) use chunk::{Chunk, SCALES_4K, header_bytes};

use crate::Format;

/// Rows that are packed together: one for each lane of 32 bits in 64 bytes.
pub const TILE_ROWS: usize = 16;

/// The layout of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Packing {
    /// Row after row, each as its [`Format`] says.
    Rows,
    /// Tiles of sixteen rows, within a tile column after column: 64 bytes are four bytes of each row, in the order in which
    /// they are multiplied: AVX-512 takes them at once, AVX2 half by half. Rows are filled up to whole tiles with zeros. See [`Chunk`].
    Tiles16,
}

impl Packing {
    /// Every packing.
    pub const ALL: [Self; 2] = [Self::Rows, Self::Tiles16];

    /// The word for it in a snapshot's table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rows => "row-major",
            Self::Tiles16 => "tiles16",
        }
    }

    /// The packing called `name`, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|packing| packing.name() == name)
    }

    /// Whether a matrix `[_, k]` in `format` can be laid out so.
    pub fn takes(self, format: Format, k: usize) -> bool {
        match self {
            Self::Rows => format.row_bytes(k).is_some(),
            Self::Tiles16 => Chunk::of(format).is_some_and(|chunk| k > 0 && k.is_multiple_of(chunk.columns)),
        }
    }

    /// Bytes of a matrix; `None` where it cannot be laid out so, or is too large.
    pub fn bytes(self, format: Format, n: usize, k: usize) -> Option<usize> {
        match self {
            Self::Rows => format.row_bytes(k)?.checked_mul(n),
            Self::Tiles16 if self.takes(format, k) => tile_bytes(format, k)?.checked_mul(n.div_ceil(TILE_ROWS)),
            Self::Tiles16 => None,
        }
    }

    /// Lays out up to [`TILE_ROWS`] rows that follow one another, the first of which is the first of a tile: `rows` as their
    /// format has them, `tile` as long as [`Packing::bytes`] of as many rows.
    ///
    /// # Panics
    /// Where the lengths are not those.
    pub fn pack(self, format: Format, k: usize, rows: &[u8], tile: &mut [u8]) {
        let row_bytes = format.row_bytes(k).expect("checked before");
        let count = rows.len() / row_bytes;
        assert!(rows.len() == count * row_bytes && (1..=TILE_ROWS).contains(&count), "rows of a tile");
        assert_eq!(Some(tile.len()), self.bytes(format, count, k), "bytes of a tile");
        match self {
            Self::Rows => tile.copy_from_slice(rows),
            Self::Tiles16 => {
                tile.fill(0);
                let chunk = Chunk::of(format).expect("checked with the length");
                for (row, bytes) in rows.chunks_exact(row_bytes).enumerate() {
                    let parts = bytes.chunks_exact(chunk.row_bytes).zip(tile.chunks_exact_mut(chunk.tile_bytes()));
                    parts.for_each(|(part, tile)| chunk.put(row, part, tile));
                }
            }
        }
    }

    /// Row `row` of a matrix, as its format has it.
    ///
    /// # Panics
    /// Where the row is not in `bytes`, or `out` is not as long as a row.
    pub fn row(self, format: Format, k: usize, bytes: &[u8], row: usize, out: &mut [u8]) {
        match self {
            Self::Rows => out.copy_from_slice(&bytes[row * out.len()..][..out.len()]),
            Self::Tiles16 => {
                let size = tile_bytes(format, k).expect("a matrix's shape was checked when it was made");
                let chunk = Chunk::of(format).expect("as above");
                let tile = &bytes[row / TILE_ROWS * size..][..size];
                let parts = out.chunks_exact_mut(chunk.row_bytes).zip(tile.chunks_exact(chunk.tile_bytes()));
                parts.for_each(|(part, tile)| chunk.take(row % TILE_ROWS, tile, part));
            }
        }
    }
}

/// Bytes of a whole tile.
pub(crate) fn tile_bytes(format: Format, k: usize) -> Option<usize> {
    let chunk = Chunk::of(format)?;
    (k / chunk.columns).checked_mul(chunk.tile_bytes())
}
