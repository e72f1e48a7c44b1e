//! The snapshot: a model sealed for restore, as one file. Bytes in order, little-endian, every offset from the file's start:
//!
//! ```text
//! 0        header      4096 bytes, readable alone, with its own checksum      → header.rs
//! 4096     table       JSON: sections, tensors, extents                       → table.rs
//! page     sections    config, tokenizer, template …; each starts on a page
//! 2 MiB    weights     one arena: tensors 256-byte aligned, in order of first use
//! page     checksums   one XXH3-64 for each chunk of the file before it; the file ends with it
//! ```
//!
//! [`seal()`] writes it, [`Snapshot`] restores it; they are twins and hold no other state. Restoring is mapping: a
//! tensor is a slice of the page cache, shared by every process that maps the same file.
//!
//! **Every byte is covered.** The header's checksum covers the header, the header holds the checksum of the checksum
//! table, and the checksum table covers all between, padding included. The *digest*, SHA-256 over everything behind the
//! header and then the header with its digest and checksum zeroed, names the whole file.
//!
//! **Invariants:** same plan and tensor bytes, same file. Nothing here knows what a dtype, a tokenizer or a
//! configuration means. No file is ever modified in place: whoever edits a sealed file behind a running process is
//! outside the promise.
#![deny(unsafe_code)]

mod body;
mod decrypt;
mod encrypt;
mod error;
mod header;
mod keys;
mod limits;
mod mapping;
mod pages;
mod read_in;
mod reader;
mod restore;
mod room;
mod seal;
mod table;
mod verify;

#[cfg(test)]
mod tests;

pub use error::Error;
pub use header::{HEADER_BYTES, Header, MODEL_BYTES_MAX, Region, VERSION, WORD_BYTES_MAX};
pub use keys::{DataKey, KEY_BYTES, OperatorKey, WRAPPED_KEY_BYTES_MAX};
pub use limits::decryption_rate;
pub use reader::Reader;
pub use restore::Snapshot;
pub use room::Room;
pub use seal::{SealPlan, Sealed, TensorPlan, key_path, seal, wrapped_key};
pub use table::{
    Extent, NAME_BYTES_MAX, RANK_MAX, SECTIONS_MAX, Section, SectionKind, TABLE_BYTES_MAX, TENSORS_MAX, Tensor,
};
pub use verify::Verification;

/// Sections, the table and the checksum table start on a multiple of this.
pub const PAGE_BYTES: u64 = 4096;
/// A tensor starts on a multiple of this: the widest load of any target, and a GPU's memory transaction.
pub const TENSOR_ALIGN: u64 = 256;
/// An arena of at least this size starts on a multiple of it (a huge page on CPU and GPU), and so does each extent.
pub const ARENA_ALIGN: u64 = 2 << 20;
/// The arena is cut into extents of this size; the last is shorter. An extent is what a device restore moves at a time.
pub const EXTENT_BYTES: u64 = 8 << 20;
/// The file is checksummed in chunks of this size: small enough to stay in a core's L2 while it is summed.
pub const CHUNK_BYTES: u32 = 1 << 20;

/// The next multiple of `align` (a power of two), or `None` beyond `u64`.
pub(crate) fn align_up(value: u64, align: u64) -> Option<u64> {
    debug_assert!(align.is_power_of_two());
    Some(value.checked_add(align - 1)? & !(align - 1))
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
