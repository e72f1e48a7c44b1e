//! What can be wrong with a matrix's bytes.

use crate::Format;

/// Why bytes are not a matrix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A row cannot be cut into whole blocks.
    #[error("{k} elements of a row are no multiple of {}'s block of {}", format.name(), format.block_elements())]
    Block {
        /// Format of the matrix.
        format: Format,
        /// Elements of a row.
        k: usize,
    },
    /// A matrix without elements.
    #[error("a matrix [{n}, {k}] has no elements")]
    Empty {
        /// Rows.
        n: usize,
        /// Elements of a row.
        k: usize,
    },
    /// The bytes are more or fewer than the shape needs.
    #[error("a matrix [{n}, {k}] of {} is not {bytes} bytes", format.name())]
    Bytes {
        /// Format of the matrix.
        format: Format,
        /// Rows.
        n: usize,
        /// Elements of a row.
        k: usize,
        /// Bytes given.
        bytes: usize,
    },
    /// The driver of an accelerator answered with an error.
    #[cfg(feature = "cuda")]
    #[error("the CUDA driver answered with error {0}")]
    Driver(u32),
}
