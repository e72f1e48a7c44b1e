//! The stored bytes of a few weight rows, read without a check at each read.
//!
//! **Invariant:** `ROWS` rows of `stride` bytes lie behind one another from `start` on. Reads are
//! checked in debug builds; that a kernel's reads stay inside a row follows from the row being
//! whole blocks.

use super::weight::Weight;
use std::marker::PhantomData;

/// `ROWS` rows of a weight.
pub(super) struct Tile<'a, const ROWS: usize> {
    start: *const u8,
    stride: usize,
    life: PhantomData<&'a [u8]>,
}

impl<'a, const ROWS: usize> Tile<'a, ROWS> {
    /// The rows from `first` on, of which there are `count`; where that is less than `ROWS`, they
    /// are copied to `space`, whose other rows then are whatever it held.
    pub fn new(w: &Weight<'a>, first: usize, count: usize, space: &'a mut [u8]) -> Self {
        let stride = w.row(0).len();
        let rows = w.rows(first..first + count);
        let bytes = if count == ROWS {
            rows
        } else {
            space[..rows.len()].copy_from_slice(rows);
            space
        };
        assert!(bytes.len() >= ROWS * stride);
        Self { start: bytes.as_ptr(), stride, life: PhantomData }
    }

    /// Bytes of a row.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// The bytes of row `row` from byte `at` on, as any plain value.
    ///
    /// # Safety
    /// `row < ROWS`, and the value ends inside the row.
    #[inline(always)]
    pub unsafe fn read<T: Copy>(&self, row: usize, at: usize) -> T {
        debug_assert!(row < ROWS && at + size_of::<T>() <= self.stride);
        // SAFETY: inside the rows that `start` stands for.
        unsafe { self.start.add(row * self.stride + at).cast::<T>().read_unaligned() }
    }

    /// Asks the cache for the part of the next tile that corresponds to `blocks` blocks from `b`
    /// on: sixteen rows at once are more streams than the processor foresees by itself.
    #[inline(always)]
    pub fn prefetch_next(&self, b: usize, blocks: usize, block_bytes: usize) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let part = ROWS * block_bytes;
        let ahead = self.start.wrapping_add(ROWS * self.stride + b * part);
        for line in 0..(blocks * part).div_ceil(64) {
            // SAFETY: a prefetch touches nothing, wherever it points.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(line * 64).cast()) };
        }
    }
}
