//! A snapshot's section that begins with JSON, and what it holds beside:
//!
//! ```text
//!  0   8  magic
//!  8   4  JSON bytes
//! 12   4  zero
//! 16      JSON
//!         zeros       up to a multiple of 4096
//!         bytes       to the end of the section
//! ```
//! **Contract:** pure. Any bytes are read, or refused with the section's name.

use crate::Error;
use serde::{Serialize, de::DeserializeOwned};

const JSON_AT: usize = 16;
const BODY_ALIGN: usize = 4096;

/// One kind of such section.
pub(crate) struct Headed {
    pub(crate) magic: [u8; 8],
    /// As the table of the snapshot names it.
    pub(crate) name: &'static str,
}

impl Headed {
    /// What stands in front of the bytes.
    pub(crate) fn head<T: DeserializeOwned>(&self, section: &[u8]) -> Result<T, Error> {
        if !section.starts_with(&self.magic) {
            return Err(self.bad("it does not begin as one"));
        }
        let json = section.get(JSON_AT..self.json_end(section)?).ok_or_else(|| self.short())?;
        serde_json::from_slice(json).map_err(|error| self.bad(error))
    }

    /// Where the bytes begin.
    pub(crate) fn body_at(&self, section: &[u8]) -> Result<usize, Error> {
        let at = self.json_end(section)?.checked_next_multiple_of(BODY_ALIGN);
        at.filter(|at| *at <= section.len()).ok_or_else(|| self.short())
    }

    /// A section without its bytes, which go behind.
    pub(crate) fn begin(&self, head: &impl Serialize) -> Result<Vec<u8>, Error> {
        let json = serde_json::to_vec(head).map_err(|error| self.bad(error))?;
        let length = u32::try_from(json.len()).map_err(|error| self.bad(error))?;
        let mut section = [&self.magic[..], &length.to_le_bytes(), &[0; 4], &json].concat();
        section.resize(section.len().next_multiple_of(BODY_ALIGN), 0);
        Ok(section)
    }

    pub(crate) fn bad(&self, reason: impl std::fmt::Display) -> Error {
        Error::BadModel(format!("{} section: {reason}", self.name))
    }

    fn short(&self) -> Error {
        self.bad("it is cut short")
    }

    fn json_end(&self, section: &[u8]) -> Result<usize, Error> {
        let length = section.get(self.magic.len()..).and_then(|rest| rest.first_chunk()).ok_or_else(|| self.short())?;
        JSON_AT.checked_add(u32::from_le_bytes(*length) as usize).ok_or_else(|| self.short())
    }
}
