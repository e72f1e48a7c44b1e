//! Sums of a tile and some rows, written to the outputs.

use super::{HALVES, LANES};
use crate::cpu::shared::Shared;
use std::arch::x86_64::*;

/// Where a tile's outputs go.
pub(super) struct Store<'a> {
    pub out: &'a Shared<'a, f32>,
    pub n: usize,
    /// First column.
    pub column: usize,
}

impl Store<'_> {
    #[inline]
    #[target_feature(enable = "avx2")]
    pub fn put<const R: usize>(&self, row: usize, sums: &[[__m256; R]; HALVES]) {
        for (half, sums) in sums.iter().enumerate() {
            let first = self.column + half * LANES;
            let count = LANES.min(self.n.saturating_sub(first));
            for (r, sum) in sums.iter().enumerate() {
                let start = (row + r) * self.n + first;
                if count == LANES {
                    // SAFETY: these columns of these rows are this task's alone.
                    let out = unsafe { self.out.part(start..start + LANES) };
                    // SAFETY: eight elements.
                    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), *sum) };
                } else if count > 0 {
                    let mut all = [0.0; LANES];
                    // SAFETY: eight elements.
                    unsafe { _mm256_storeu_ps(all.as_mut_ptr(), *sum) };
                    // SAFETY: as above.
                    unsafe { self.out.part(start..start + count) }.copy_from_slice(&all[..count]);
                }
            }
        }
    }
}
