//! The table: which sections, tensors and extents lie where. JSON, at most [`TABLE_BYTES_MAX`], with a checksum of its
//! own in the header. Sections and tensors come in the order of their offsets, so overlap is one comparison.
//!
//! **Invariant:** a [`Table`] that was read describes bytes within the file, aligned as promised, each used once.

use crate::{ARENA_ALIGN, Error, Header, PAGE_BYTES, TENSOR_ALIGN};
use serde::{Deserialize, Serialize};
use std::{collections::HashSet, ops::Range};

/// Largest table.
pub const TABLE_BYTES_MAX: u64 = 16 << 20;
/// Most sections.
pub const SECTIONS_MAX: usize = 256;
/// Most tensors in one arena.
pub const TENSORS_MAX: usize = 1 << 16;
/// Most arenas (layouts of the same weights for several targets).
const ARENAS_MAX: usize = 16;
/// Most dimensions of a tensor.
pub const RANK_MAX: usize = 8;
/// Longest name of a section or tensor, dtype or layout, in bytes.
pub const NAME_BYTES_MAX: usize = 512;

/// What a section holds. Numbered on disk; an unknown critical section refuses, any other is skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u32)]
pub enum SectionKind {
    /// An arena of tensors.
    Weights = 1,
    /// The tokenizer in its ready-to-map form.
    Tokenizer = 2,
    /// The chat template and the strings it needs.
    Template = 3,
    /// The model's configuration.
    Config = 4,
    /// Defaults of generation: end tokens, temperature.
    Generation = 5,
    /// Guests and their compiled code.
    Guests = 6,
    /// Compiled device code and tuning choices.
    Kernels = 7,
    /// A system prompt's keys and values, computed at seal time.
    PrefixKv = 8,
}

impl SectionKind {
    const ALL: [Self; 8] = [
        Self::Weights,
        Self::Tokenizer,
        Self::Template,
        Self::Config,
        Self::Generation,
        Self::Guests,
        Self::Kernels,
        Self::PrefixKv,
    ];

    /// The name in tables and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Weights => "weights",
            Self::Tokenizer => "tokenizer",
            Self::Template => "template",
            Self::Config => "config",
            Self::Generation => "generation",
            Self::Guests => "guests",
            Self::Kernels => "kernels",
            Self::PrefixKv => "prefix-kv",
        }
    }

    /// May a reader that does not know the section go on without it? Only what saves time may be skipped: a
    /// reader without the guests would skip a policy.
    pub fn critical(self) -> bool {
        !matches!(self, Self::Kernels | Self::PrefixKv)
    }

    /// Newest version of the section this build reads.
    pub(crate) fn version(self) -> u16 {
        match self {
            // Version 1 is a `tokenizer.json`, 2 may be tables.
            Self::Tokenizer => 2,
            _ => 1,
        }
    }

    fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u32 == number)
    }
}

/// A section of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Section {
    /// [`SectionKind`] by number; unknown numbers are a newer writer's.
    pub kind: u32,
    /// Its name, for messages.
    pub name: String,
    /// Version of its contents.
    pub version: u16,
    /// Must a reader understand it?
    pub critical: bool,
    /// First byte in the file, on a page.
    pub offset: u64,
    /// Length.
    pub bytes: u64,
}

impl Section {
    /// The kind, where this build knows number and version.
    pub fn known(&self) -> Option<SectionKind> {
        SectionKind::from_number(self.kind).filter(|kind| self.version <= kind.version())
    }

    /// Absolute bytes. Checked when the table was read.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.bytes
    }
}

/// One tensor of the table. `dtype` and `layout` are words of the crate that wrote them (e.g. `q4_1`, `row-major`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tensor {
    /// Name, unique in its arena.
    pub name: String,
    /// How elements are stored.
    pub dtype: String,
    /// How rows and blocks are arranged.
    pub layout: String,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// First byte in the file, 256-byte aligned.
    pub offset: u64,
    /// Length.
    pub bytes: u64,
}

impl Tensor {
    /// Absolute bytes. Checked when the table was read.
    pub fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.bytes
    }
}

/// A piece of an arena that a device restore moves at a time. Extents cover their arena without gaps.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// First byte in the file.
    pub offset: u64,
    /// Length.
    pub bytes: u64,
}

/// The weights in one layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Arena {
    pub(crate) target: String,
    /// Index of its section.
    pub(crate) section: usize,
    pub(crate) extents: Vec<Extent>,
    pub(crate) tensors: Vec<Tensor>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Table {
    pub(crate) sections: Vec<Section>,
    /// The first is the header's; further ones are for other targets.
    pub(crate) arenas: Vec<Arena>,
}

impl Table {
    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a table has string keys and no floats")
    }

    /// Parses bytes whose checksum fits, and checks all that `header` and the file's size promise.
    pub(crate) fn parse(json: &[u8], header: &Header) -> Result<Self, Error> {
        let table: Self = serde_json::from_slice(json).map_err(|error| {
            // The writer puts it all on one line, so the column is the byte.
            Error::invalid("table", header.table.offset + error.column() as u64, error.to_string())
        })?;
        Checker { header }.table(&table)?;
        Ok(table)
    }
}

/// The alignment of an arena of `bytes` bytes: one smaller than a huge page has no use for one.
pub(crate) fn arena_align(bytes: u64) -> u64 {
    if bytes >= ARENA_ALIGN { ARENA_ALIGN } else { PAGE_BYTES }
}

struct Checker<'a> {
    header: &'a Header,
}

impl Checker<'_> {
    fn fail<T>(&self, field: impl Into<String>, problem: impl Into<String>) -> Result<T, Error> {
        Err(Error::invalid(field, self.header.table.offset, problem))
    }

    fn at_most(&self, field: &str, count: usize, max: usize) -> Result<(), Error> {
        if count > max { self.fail(field, format!("{count} entries, {max} at most")) } else { Ok(()) }
    }

    fn word(&self, field: impl Into<String>, word: &str) -> Result<(), Error> {
        if word.is_empty() || word.len() > NAME_BYTES_MAX {
            return self.fail(field, format!("{} bytes, expected 1 to {NAME_BYTES_MAX}", word.len()));
        }
        Ok(())
    }

    /// `offset` on `align`, at or behind `from`, and the end no further than `to`; returns the end.
    fn span(&self, field: &str, (offset, bytes): (u64, u64), align: u64, bounds: Range<u64>) -> Result<u64, Error> {
        let end = offset.checked_add(bytes).filter(|end| *end <= bounds.end);
        match end {
            Some(end) if offset >= bounds.start && offset.is_multiple_of(align) => Ok(end),
            _ => self.fail(
                field,
                format!(
                    "{bytes} bytes at {offset:#x} overlap, leave {:#x}..{:#x}, or start off {align} bytes",
                    bounds.start, bounds.end
                ),
            ),
        }
    }

    fn table(&self, table: &Table) -> Result<(), Error> {
        self.at_most("table.sections", table.sections.len(), SECTIONS_MAX)?;
        self.at_most("table.arenas", table.arenas.len(), ARENAS_MAX)?;
        self.sections(&table.sections)?;
        for (i, arena) in table.arenas.iter().enumerate() {
            self.arena(&format!("table.arenas[{i}]"), arena, &table.sections)?;
        }
        let first = table.arenas.first().and_then(|arena| table.sections.get(arena.section));
        match first {
            Some(section)
                if section.offset == self.header.weights.offset && section.bytes == self.header.weights.bytes =>
            {
                Ok(())
            }
            _ => self.fail("table.arenas[0].section", "is not the weights the header names"),
        }
    }

    fn sections(&self, sections: &[Section]) -> Result<(), Error> {
        let mut seen = HashSet::new();
        let mut free = self.header.table.range().map_or(u64::MAX, |range| range.end);
        for (i, section) in sections.iter().enumerate() {
            let field = format!("table.sections[{i}]");
            self.word(format!("{field}.name"), &section.name)?;
            if section.critical && section.known().is_none() {
                return Err(Error::UnknownCritical {
                    what: format!("section {} version {}", section.name, section.version),
                });
            }
            let bounds = free..self.header.checksums.offset;
            free =
                self.span(&format!("{field} ({})", section.name), (section.offset, section.bytes), PAGE_BYTES, bounds)?;
            if section.known().is_some_and(|kind| kind != SectionKind::Weights && !seen.insert(kind)) {
                return self.fail(field, format!("a second section {}", section.name));
            }
        }
        Ok(())
    }

    fn arena(&self, field: &str, arena: &Arena, sections: &[Section]) -> Result<(), Error> {
        self.word(format!("{field}.target"), &arena.target)?;
        self.at_most(&format!("{field}.tensors"), arena.tensors.len(), TENSORS_MAX)?;
        let Some(section) = sections.get(arena.section).filter(|section| section.known() == Some(SectionKind::Weights))
        else {
            return self.fail(format!("{field}.section"), format!("{} is no weights section", arena.section));
        };
        let align = arena_align(section.bytes);
        let mut next = section.offset;
        for (i, extent) in arena.extents.iter().enumerate() {
            let field = format!("{field}.extents[{i}]");
            if extent.offset != next || extent.bytes == 0 {
                return self.fail(
                    field,
                    format!("starts at {:#x} with {} bytes, expected {next:#x}", extent.offset, extent.bytes),
                );
            }
            next = self.span(&field, (extent.offset, extent.bytes), align, section.range())?;
        }
        if next != section.range().end {
            return self.fail(
                format!("{field}.extents"),
                format!("end at {next:#x}, the section at {:#x}", section.range().end),
            );
        }
        self.tensors(field, &arena.tensors, section.range())
    }

    fn tensors(&self, field: &str, tensors: &[Tensor], section: Range<u64>) -> Result<(), Error> {
        let mut names = HashSet::new();
        let mut free = section.start;
        for (i, tensor) in tensors.iter().enumerate() {
            let field = format!("{field}.tensors[{i}]");
            for (part, word) in [("name", &tensor.name), ("dtype", &tensor.dtype), ("layout", &tensor.layout)] {
                self.word(format!("{field}.{part}"), word)?;
            }
            let field = format!("{field} ({})", tensor.name);
            if !names.insert(tensor.name.as_str()) {
                return self.fail(field, "the name is used twice");
            }
            self.at_most(&format!("{field}.shape"), tensor.shape.len(), RANK_MAX)?;
            if tensor.shape.iter().try_fold(1u64, |product, dimension| product.checked_mul(*dimension)).is_none() {
                return self.fail(
                    format!("{field}.shape"),
                    format!("{:?} has more elements than 64 bits count", tensor.shape),
                );
            }
            free = self.span(&field, (tensor.offset, tensor.bytes), TENSOR_ALIGN, free..section.end)?;
        }
        Ok(())
    }
}
