//! A weight as the kernels see it: bytes whose length has been checked once.
//!
//! **Invariant:** `bytes.len() == n * row_bytes` and, for block formats, `k` is a multiple of the
//! block: the kernels that read through pointers rely on it.

use crate::Format;

/// `[n, k]` in `format`, row by row.
#[derive(Clone, Copy)]
pub(crate) struct Weight<'a> {
    bytes: &'a [u8],
    format: Format,
    n: usize,
    k: usize,
    row_bytes: usize,
}

impl<'a> Weight<'a> {
    /// `None` where the length of `bytes` does not fit.
    pub fn new(bytes: &'a [u8], format: Format, n: usize, k: usize) -> Option<Self> {
        let row_bytes = format.row_bytes(k)?;
        (n.checked_mul(row_bytes)? == bytes.len()).then_some(Self { bytes, format, n, k, row_bytes })
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

    #[cfg(target_arch = "x86_64")]
    pub fn rows(&self, rows: std::ops::Range<usize>) -> &'a [u8] {
        &self.bytes[rows.start * self.row_bytes..rows.end * self.row_bytes]
    }

    pub fn row(&self, row: usize) -> &'a [u8] {
        &self.bytes[row * self.row_bytes..][..self.row_bytes]
    }
}
