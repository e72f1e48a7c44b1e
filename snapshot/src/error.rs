//! What can be wrong with a snapshot, as facts: which part, at which absolute offset.

use crate::VERSION;
use std::{io, ops::Range};

/// Why a snapshot could not be sealed, opened or verified.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused; the file may be sound.
    #[error("{action}: {source}")]
    Io {
        /// What was being done, and to which file.
        action: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The first bytes are not a snapshot's.
    #[error("not a snapshot: the file begins with {found:02x?}")]
    NotASnapshot {
        /// The file's first bytes, eight at most.
        found: Vec<u8>,
    },
    /// A snapshot of another format version.
    #[error("snapshot format version {found}, this build reads version {VERSION}: seal the model again")]
    Version {
        /// The version in the header.
        found: u16,
    },
    /// The file is shorter than its header says.
    #[error("truncated: {expected} bytes expected, {found} in the file")]
    Truncated {
        /// Bytes by the header (or the header's own size).
        expected: u64,
        /// Bytes in the file.
        found: u64,
    },
    /// A checksum does not fit its bytes.
    #[error("{}: checksum mismatch", place(*.chunk, .section, .bytes))]
    Corrupt {
        /// The chunk's number; `None` for parts with a checksum of their own.
        chunk: Option<u64>,
        /// The section or sections that lie there.
        section: String,
        /// Absolute bytes of the part that was summed.
        bytes: Range<u64>,
    },
    /// Every chunk is sound by its checksum, but the whole is not what the header names.
    #[error("whole file: digest is {found}, the header says {expected}")]
    Digest {
        /// SHA-256 in the header, hexadecimal.
        expected: String,
        /// SHA-256 of the bytes, hexadecimal.
        found: String,
    },
    /// Checksums fit, but a value makes no sense: a broken or hostile writer.
    #[error("{field} at byte {offset:#x}: {problem}")]
    Invalid {
        /// The field, e.g. `table.sections[2].offset`.
        field: String,
        /// Absolute offset of the field, or of the table that holds it.
        offset: u64,
        /// What is wrong with it.
        problem: String,
    },
    /// Something a reader must understand, and this build does not.
    #[error("{what} is critical and unknown to this build: restore it with a newer one")]
    UnknownCritical {
        /// The section (and its version) or header flag.
        what: String,
    },
    /// It is encrypted, and cannot be read as it is.
    #[error(
        "it is encrypted: reading it needs the operator's key (--decrypt-key) and the wrapped key beside it (FILE.key)"
    )]
    Encrypted,
    /// A key does not open it.
    #[error("key: {problem}")]
    Key {
        /// Why not.
        problem: String,
    },
    /// Encrypted bytes are not what was sealed.
    #[error("bytes {:#x}..{:#x} cannot be decrypted: they are not what was sealed with this key", .bytes.start, .bytes.end)]
    Undecryptable {
        /// Absolute bytes.
        bytes: Range<u64>,
    },
    /// The plan handed to `seal` cannot be written.
    #[error("cannot seal: {field}: {problem}")]
    Plan {
        /// The part of the plan.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Error {
    /// Bad data (sysexits 65), as opposed to a failing disk or a missing file (74).
    pub fn is_bad_data(&self) -> bool {
        !matches!(self, Error::Io { .. })
    }

    /// The exit code of a command that ends with this error.
    pub fn exit_code(&self) -> u8 {
        if self.is_bad_data() { 65 } else { 74 }
    }

    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
        let action = action.into();
        move |source| Error::Io { action, source }
    }

    pub(crate) fn invalid(field: impl Into<String>, offset: u64, problem: impl Into<String>) -> Error {
        Error::Invalid { field: field.into(), offset, problem: problem.into() }
    }

    pub(crate) fn plan(field: impl Into<String>, problem: impl Into<String>) -> Error {
        Error::Plan { field: field.into(), problem: problem.into() }
    }
}

fn place(chunk: Option<u64>, section: &str, bytes: &Range<u64>) -> String {
    match chunk {
        Some(chunk) => format!("chunk {chunk} (section {section}, bytes {:#x}..{:#x})", bytes.start, bytes.end),
        None => format!("{section} (bytes {:#x}..{:#x})", bytes.start, bytes.end),
    }
}
