//! The snapshot's `tokenizer` section, which is mapped and not parsed:
//!
//! ```text
//!  0   8  magic       89 50 4C 54 42 50 45 0A
//!  8   4  JSON bytes
//! 12   4  zero
//! 16      JSON        `tokenizer.json` with the model's rules, and without its vocabulary and merges
//!         zeros       up to a multiple of 64
//!         tables      vocabulary and merges, to the end of the section      → bpe/tables.rs
//! ```
//! A section that does not begin so is a `tokenizer.json` as its makers have it: of a model that is no byte-pair encoding, or sealed
//! before there were tables.

use super::{bpe::Tables, file};
use crate::Error;
use bytes::Bytes;

const MAGIC: [u8; 8] = *b"\x89PLTBPE\n";
const JSON_AT: usize = 16;
const TABLES_ALIGN: usize = 64;

/// What a section holds.
pub(super) enum Sealed {
    /// Everything but vocabulary and merges; and those.
    Tables(Bytes, Tables),
    /// A whole `tokenizer.json`.
    Json(Bytes),
}

/// The section of a `tokenizer.json`. Same bytes, same section.
pub(super) fn seal(json: &[u8]) -> Result<Vec<u8>, Error> {
    let Some((rules, tables)) = file::to_tables(json)? else { return Ok(json.to_vec()) };
    let length = u32::try_from(rules.len()).map_err(|_| bad("more than 4 GiB beside the vocabulary"))?;
    let mut section = [&MAGIC[..], &length.to_le_bytes(), &[0; 4], &rules].concat();
    section.resize(section.len().next_multiple_of(TABLES_ALIGN), 0);
    section.extend_from_slice(tables.as_bytes());
    Ok(section)
}

/// Takes a section apart.
pub(super) fn open(section: Bytes) -> Result<Sealed, Error> {
    if !section.starts_with(&MAGIC) {
        return Ok(Sealed::Json(section));
    }
    let cut_short = || bad(format_args!("{} bytes, which is less than it says", section.len()));
    let length = section.get(MAGIC.len()..).and_then(|rest| rest.first_chunk()).ok_or_else(cut_short)?;
    let end = JSON_AT.checked_add(u32::from_le_bytes(*length) as usize).ok_or_else(cut_short)?;
    let tables_at =
        end.checked_next_multiple_of(TABLES_ALIGN).filter(|at| *at <= section.len()).ok_or_else(cut_short)?;
    let tables = Tables::new(section.slice(tables_at..)).map_err(bad)?;
    Ok(Sealed::Tables(section.slice(JSON_AT..end), tables))
}

fn bad(reason: impl std::fmt::Display) -> Error {
    Error::BadModel(format!("tokenizer section: {reason}"))
}
