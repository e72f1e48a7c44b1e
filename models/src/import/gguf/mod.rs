//! The GGUF container, versions 2 and 3, little endian: metadata and where tensors lie.
//!
//! **Invariant:** whatever [`parse`] returns lies wholly inside the bytes it was given. Knows no model; tensor bytes are not read.
//! Layout: the GGUF specification in ggml's `docs/gguf.md`.

mod config;
mod names;
mod source;
mod tokenizer;
mod value;

pub(crate) use source::open;
pub use tokenizer::rebuild as tokenizer_json;
pub use value::Value;

use super::reader::Reader;
use crate::Error;
use kernels::Format;
use std::{collections::HashMap, ops::Range};

/// Most metadata entries.
pub const ENTRIES_MAX: usize = 1 << 16;
/// Most tensors.
pub const TENSORS_MAX: usize = 1 << 16;
/// Longest key or tensor name, in bytes.
pub const NAME_BYTES_MAX: usize = 1 << 10;
/// Largest alignment of tensor data, in bytes.
pub const ALIGNMENT_MAX: u64 = 1 << 20;
/// Most dimensions of a tensor.
pub const DIMENSIONS_MAX: usize = 4;
const ALIGNMENT_DEFAULT: u64 = 32;
/// The least that one entry or one tensor takes: name's length, type, and a little.
const LEAST_ENTRY_BYTES: usize = 13;
const LEAST_TENSOR_BYTES: usize = 24;

/// What a GGUF file says of itself.
#[derive(Clone, Debug)]
pub struct Gguf {
    /// Of the container.
    pub version: u32,
    /// By key; keys are unique.
    pub metadata: HashMap<String, Value>,
    /// In the file's order; names are unique.
    pub tensors: Vec<TensorInfo>,
}

/// One tensor of a GGUF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// As in the file, e.g. `blk.0.attn_q.weight`.
    pub name: String,
    /// Outermost first, as everywhere here (the file has it the other way round).
    pub shape: Vec<usize>,
    /// How elements are stored.
    pub format: Format,
    /// In the file, in bytes.
    pub range: Range<usize>,
}

/// Reads the container's header. `file` is the whole file.
///
/// # Errors
/// [`Error::BadModel`] names field and byte offset; [`Error::Unsupported`] names a tensor and its type.
pub fn parse(file: &[u8]) -> Result<Gguf, Error> {
    let mut reader = Reader::new("GGUF", file);
    let version = parse_version(&mut reader)?;
    let tensor_count = reader.count("tensor count", TENSORS_MAX, LEAST_TENSOR_BYTES)?;
    let entry_count = reader.count("metadata count", ENTRIES_MAX, LEAST_ENTRY_BYTES)?;
    let metadata = parse_metadata(&mut reader, entry_count)?;
    let mut placed = Vec::with_capacity(tensor_count);
    for index in 0..tensor_count {
        placed.push(Placed::parse(&mut reader, index)?);
    }
    let alignment = alignment(&reader, &metadata)?;
    let data = (reader.at() as u64).next_multiple_of(alignment);
    let mut names = std::collections::HashSet::with_capacity(tensor_count);
    let mut tensors = Vec::with_capacity(tensor_count);
    for tensor in placed {
        if !names.insert(tensor.name.clone()) {
            return Err(tensor.bad("appears twice"));
        }
        if !tensor.offset.is_multiple_of(alignment) {
            return Err(tensor.bad(format_args!("offset {} is no multiple of {alignment}", tensor.offset)));
        }
        tensors.push(tensor.resolve(data, file.len())?);
    }
    Ok(Gguf { version, metadata, tensors })
}

fn parse_version(reader: &mut Reader) -> Result<u32, Error> {
    let magic = reader.take("magic", 4)?;
    if magic != b"GGUF" {
        return Err(Error::BadModel(format!("GGUF: magic at byte 0: {magic:02x?}, not \"GGUF\"")));
    }
    match reader.u32("version")? {
        version @ (2 | 3) => Ok(version),
        1 => Err(Error::Unsupported("GGUF version 1; versions 2 and 3 are read".into())),
        other if matches!(other.swap_bytes(), 1..=3) => {
            Err(Error::Unsupported("a big-endian GGUF; little-endian files are read".into()))
        }
        other => Err(Error::Unsupported(format!("GGUF version {other}; versions 2 and 3 are read"))),
    }
}

fn parse_metadata(reader: &mut Reader, count: usize) -> Result<HashMap<String, Value>, Error> {
    let mut metadata = HashMap::with_capacity(count);
    for index in 0..count {
        let key = reader.string(&format!("key of metadata entry {index}"), NAME_BYTES_MAX)?.to_owned();
        let value = Value::parse(reader, &key)?;
        if metadata.contains_key(&key) {
            return Err(reader.bad(&key, "appears twice"));
        }
        metadata.insert(key, value);
    }
    Ok(metadata)
}

/// Tensor data, and each tensor in it, begins at a multiple of this many bytes.
fn alignment(reader: &Reader, metadata: &HashMap<String, Value>) -> Result<u64, Error> {
    let Some(value) = metadata.get("general.alignment") else { return Ok(ALIGNMENT_DEFAULT) };
    match value.as_u64() {
        Some(n) if n.is_power_of_two() && n <= ALIGNMENT_MAX => Ok(n),
        _ => {
            let reason = format!("{value:?} is no power of two up to {ALIGNMENT_MAX}");
            Err(reader.bad("general.alignment, read", reason))
        }
    }
}

/// A tensor's entry as it stands in the file, its place not yet checked.
struct Placed {
    name: String,
    shape: Vec<usize>,
    format: Format,
    /// Of the entry, in the file.
    at: usize,
    /// From the start of tensor data.
    offset: u64,
}

impl Placed {
    fn parse(reader: &mut Reader, index: usize) -> Result<Self, Error> {
        let at = reader.at();
        let name = reader.string(&format!("name of tensor {index}"), NAME_BYTES_MAX)?.to_owned();
        let dimensions = reader.u32(&format!("dimensions of tensor {name}"))? as usize;
        if dimensions == 0 || dimensions > DIMENSIONS_MAX {
            let reason = format!("{dimensions}, accepted are 1 to {DIMENSIONS_MAX}");
            return Err(reader.bad(&format!("dimensions of tensor {name}"), reason));
        }
        let mut shape = Vec::with_capacity(dimensions);
        for _ in 0..dimensions {
            let extent = reader.u64(&format!("shape of tensor {name}"))?;
            let extent = usize::try_from(extent).ok().filter(|&extent| extent > 0);
            shape.push(extent.ok_or_else(|| reader.bad(&format!("shape of tensor {name}"), "an impossible extent"))?);
        }
        shape.reverse();
        let format = format_of(&name, reader.u32(&format!("type of tensor {name}"))?)?;
        let offset = reader.u64(&format!("offset of tensor {name}"))?;
        Ok(Self { name, shape, format, at, offset })
    }

    fn bad(&self, reason: impl std::fmt::Display) -> Error {
        Error::BadModel(format!("GGUF: tensor {} at byte {}: {reason}", self.name, self.at))
    }

    fn bytes(&self) -> Option<usize> {
        let (columns, rows) = self.shape.split_last()?;
        rows.iter().try_fold(self.format.row_bytes(*columns)?, |bytes, extent| bytes.checked_mul(*extent))
    }

    fn resolve(self, data: u64, file_bytes: usize) -> Result<TensorInfo, Error> {
        let Some(bytes) = self.bytes() else {
            return Err(self.bad(format_args!("shape {:?} cannot be stored as {}", self.shape, self.format.name())));
        };
        let start = data.checked_add(self.offset).and_then(|start| usize::try_from(start).ok());
        let end = start.and_then(|start| start.checked_add(bytes)).filter(|&end| end <= file_bytes);
        match (start, end) {
            (Some(start), Some(end)) => {
                Ok(TensorInfo { name: self.name, shape: self.shape, format: self.format, range: start..end })
            }
            _ => Err(self.bad(format_args!(
                "its {bytes} bytes at offset {} of the data at byte {data} end after the file's {file_bytes}",
                self.offset
            ))),
        }
    }
}

/// The names of ggml's types by their numbers; those that were removed are empty.
const TYPE_NAMES: [&str; 40] = [
    "F32", "F16", "Q4_0", "Q4_1", "", "", "Q5_0", "Q5_1", "Q8_0", "Q8_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S", "IQ2_S", "IQ4_XS", "I8", "I16", "I32", "I64",
    "F64", "IQ1_M", "BF16", "", "", "", "TQ1_0", "TQ2_0", "", "", "", "MXFP4",
];

fn format_of(tensor: &str, number: u32) -> Result<Format, Error> {
    Ok(match number {
        0 => Format::F32,
        1 => Format::F16,
        2 => Format::Q4_0,
        3 => Format::Q4_1,
        6 => Format::Q5_0,
        7 => Format::Q5_1,
        8 => Format::Q8_0,
        10 => Format::Q2_K,
        11 => Format::Q3_K,
        12 => Format::Q4_K,
        13 => Format::Q5_K,
        14 => Format::Q6_K,
        20 => Format::IQ4_NL,
        30 => Format::BF16,
        other => {
            let name = TYPE_NAMES.get(other as usize).copied().filter(|name| !name.is_empty());
            let name = name.map_or_else(|| format!("number {other}"), str::to_owned);
            let readable = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K and IQ4_NL are read";
            return Err(Error::Unsupported(format!("GGUF: tensor {tensor} is of type {name}; {readable}")));
        }
    })
}
