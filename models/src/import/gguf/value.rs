//! Metadata values of a GGUF file.

use super::super::reader::Reader;
use crate::Error;

/// Longest string, in bytes (chat templates are the longest).
pub const STRING_BYTES_MAX: usize = 1 << 24;
/// Most elements of one array (a vocabulary is the largest).
pub const ELEMENTS_MAX: usize = 1 << 22;

const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// A metadata value. Integers of all widths are one kind, and so are floats: readers care for the number.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    String(String),
    Strings(Vec<String>),
    /// Integers and booleans; unsigned ones above `i64::MAX` are refused.
    Integers(Vec<i64>),
    Floats(Vec<f64>),
}

impl Value {
    pub(super) fn parse(reader: &mut Reader, key: &str) -> Result<Self, Error> {
        match reader.u32(key)? {
            ARRAY => Self::parse_array(reader, key),
            kind => Self::parse_scalar(reader, key, kind),
        }
    }

    fn parse_scalar(reader: &mut Reader, key: &str, kind: u32) -> Result<Self, Error> {
        Ok(match kind {
            0 => Self::Unsigned(reader.u8(key)?.into()),
            1 => Self::Signed((reader.u8(key)? as i8).into()),
            2 => Self::Unsigned(reader.u16(key)?.into()),
            3 => Self::Signed((reader.u16(key)? as i16).into()),
            4 => Self::Unsigned(reader.u32(key)?.into()),
            5 => Self::Signed((reader.u32(key)? as i32).into()),
            6 => Self::Float(f32::from_bits(reader.u32(key)?).into()),
            BOOL => match reader.u8(key)? {
                0 => Self::Bool(false),
                1 => Self::Bool(true),
                other => return Err(reader.bad(key, format_args!("{other} is no boolean"))),
            },
            STRING => Self::String(reader.string(key, STRING_BYTES_MAX)?.to_owned()),
            10 => Self::Unsigned(reader.u64(key)?),
            11 => Self::Signed(reader.u64(key)? as i64),
            12 => Self::Float(f64::from_bits(reader.u64(key)?)),
            other => return Err(reader.bad(key, format_args!("{other} is no value type"))),
        })
    }

    fn parse_array(reader: &mut Reader, key: &str) -> Result<Self, Error> {
        let kind = reader.u32(key)?;
        if kind == ARRAY {
            return Err(Error::Unsupported(format!("GGUF: {key} at byte {}: an array of arrays", reader.at())));
        }
        let least = match kind {
            STRING | 10..=12 => 8,
            4..=6 => 4,
            2 | 3 => 2,
            _ => 1,
        };
        let count = reader.count(key, ELEMENTS_MAX, least)?;
        match kind {
            STRING => (0..count)
                .map(|_| reader.string(key, STRING_BYTES_MAX).map(str::to_owned))
                .collect::<Result<_, _>>()
                .map(Self::Strings),
            6 | 12 => (0..count)
                .map(|_| Ok(Self::parse_scalar(reader, key, kind)?.as_f64().expect("floats were asked for")))
                .collect::<Result<_, _>>()
                .map(Self::Floats),
            _ => {
                (0..count).map(|_| Self::parse_integer(reader, key, kind)).collect::<Result<_, _>>().map(Self::Integers)
            }
        }
    }

    fn parse_integer(reader: &mut Reader, key: &str, kind: u32) -> Result<i64, Error> {
        match Self::parse_scalar(reader, key, kind)? {
            Self::Signed(n) => Ok(n),
            Self::Bool(b) => Ok(b.into()),
            Self::Unsigned(n) => i64::try_from(n).map_err(|_| reader.bad(key, format_args!("{n} is too large"))),
            other => Err(reader.bad(key, format_args!("{other:?} is no integer"))),
        }
    }

    /// A whole number that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Self::Unsigned(n) => Some(n),
            Self::Signed(n) => u64::try_from(n).ok(),
            _ => None,
        }
    }

    /// Any number.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Self::Unsigned(n) => Some(n as f64),
            Self::Signed(n) => Some(n as f64),
            Self::Float(x) => Some(x),
            _ => None,
        }
    }

    /// A boolean.
    pub fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(b) = *self { Some(b) } else { None }
    }

    /// A string.
    pub fn as_str(&self) -> Option<&str> {
        if let Self::String(s) = self { Some(s) } else { None }
    }

    /// An array of strings.
    pub fn as_strings(&self) -> Option<&[String]> {
        if let Self::Strings(s) = self { Some(s) } else { None }
    }

    /// An array of integers.
    pub fn as_integers(&self) -> Option<&[i64]> {
        if let Self::Integers(n) = self { Some(n) } else { None }
    }

    /// An array of floats.
    pub fn as_floats(&self) -> Option<&[f64]> {
        if let Self::Floats(x) = self { Some(x) } else { None }
    }
}
