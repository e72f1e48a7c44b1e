//! Sums of a few tiles and rows, written to the outputs.

use crate::cpu::shared::Shared;
use crate::packing::TILE_ROWS;
use std::arch::x86_64::*;

/// Where a few tiles' outputs go.
pub(super) struct Store<'a> {
    pub out: &'a Shared<'a, f32>,
    pub n: usize,
    /// First column.
    pub column: usize,
}

impl Store<'_> {
    /// Part of its caller, so that the sums stay in registers.
    ///
    /// # Safety
    /// The processor has AVX-512.
    #[inline(always)]
    pub unsafe fn put<const T: usize, const R: usize>(&self, row: usize, sums: &[[__m512; R]; T]) {
        for (t, sums) in sums.iter().enumerate() {
            let first = self.column + t * TILE_ROWS;
            let count = TILE_ROWS.min(self.n - first);
            for (r, sum) in sums.iter().enumerate() {
                let start = (row + r) * self.n + first;
                // SAFETY: these columns of these rows are this task's alone.
                let out = unsafe { self.out.part(start..start + count) };
                if count == TILE_ROWS {
                    // SAFETY: sixteen elements; the caller's promise.
                    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), *sum) };
                    continue;
                }
                let mask = ((1u32 << count) - 1) as __mmask16;
                // SAFETY: the mask has one bit for each element of `out`; the caller's promise.
                unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr(), mask, *sum) };
            }
        }
    }
}
