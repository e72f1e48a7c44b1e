//! A tensor as its makers stored it: shared bytes, how to read them, and in which order its rows lie.

use super::fp8::Scales;
use super::plan::{Expected, Role};
use bytes::Bytes;
use kernels::Format;
use std::borrow::Cow;

/// A stored tensor, checked against what the graph expects.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// Canonical name.
    pub name: String,
    /// `[n]` or `[rows, columns]`.
    pub shape: Vec<usize>,
    pub role: Role,
    pub format: Format,
    /// All rows, one after the other, in the stored order.
    bytes: Bytes,
    row_bytes: usize,
    order: RowOrder,
    /// Of 8-bit floats, which are read as float32.
    scales: Option<Scaled>,
}

/// The scales of the published matrix, and which of its rows is the first here.
#[derive(Clone, Debug)]
struct Scaled {
    scales: Scales,
    first: usize,
}

/// In which order rows lie in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowOrder {
    /// As Hugging Face has them: a head's first halves of the rotated pairs, then the second halves.
    Halves,
    /// As llama.cpp's converter writes the queries and keys of Llama: the two of a pair side by side.
    Interleaved,
}

/// Where a tensor is published: under which name, and in which part of what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub name: String,
    /// `None`: it is the whole of that tensor.
    pub part: Option<Part>,
}

/// Consecutive rows of a larger tensor (or elements, where it is a vector).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Shape of the larger tensor.
    pub of: Vec<usize>,
    /// The first row in it, all leading axes taken as one.
    pub first: usize,
}

impl Place {
    /// The whole of the tensor `name`.
    pub fn whole(name: impl Into<String>) -> Self {
        Self { name: name.into(), part: None }
    }

    /// Rows of the tensor `name`, which has the shape `of`, from `first` on.
    pub fn part(name: impl Into<String>, of: &[usize], first: usize) -> Self {
        Self { name: name.into(), part: Some(Part { of: of.to_vec(), first }) }
    }

    /// The shape the published tensor must have.
    pub fn shape<'a>(&'a self, expected: &'a Expected) -> &'a [usize] {
        self.part.as_ref().map_or(&expected.shape, |part| &part.of)
    }
}

impl Stored {
    /// `expected` out of the published tensor's `bytes`, whose shape has been checked. `None` where these are not exactly as
    /// many as the shape needs in this format, or where a block of the format would be cut.
    pub fn new(expected: &Expected, place: &Place, format: Format, bytes: &Bytes, order: RowOrder) -> Option<Self> {
        let published = size(format, place.shape(expected))?;
        let wanted = size(format, &expected.shape)?;
        let start = match &place.part {
            None => 0,
            Some(part) => {
                let mut before = expected.shape.clone();
                *before.first_mut()? = part.first;
                size(format, &before)?
            }
        };
        if published != bytes.len() || start.checked_add(wanted)? > published {
            return None;
        }
        let Expected { name, shape, role } = expected.clone();
        let row_bytes = format.row_bytes(*shape.last()?)?;
        Some(Self {
            name,
            shape,
            role,
            format,
            bytes: bytes.slice(start..start + wanted),
            row_bytes,
            order,
            scales: None,
        })
    }

    /// The same of a matrix in 8-bit floats with `scales`; its format is float32, in which its rows come.
    pub fn scaled(expected: &Expected, place: &Place, bytes: &Bytes, scales: Scales) -> Option<Self> {
        let [rows, columns] = expected.shape[..] else { return None };
        let first = place.part.as_ref().map_or(0, |part| part.first);
        let published = place.shape(expected).iter().try_fold(1usize, |all, extent| all.checked_mul(*extent))?;
        let (start, wanted) = (first.checked_mul(columns)?, rows.checked_mul(columns)?);
        if published != bytes.len() || start.checked_add(wanted)? > published {
            return None;
        }
        let Expected { name, shape, role } = expected.clone();
        let (bytes, scales) = (bytes.slice(start..start + wanted), Some(Scaled { scales, first }));
        Some(Self {
            name,
            shape,
            role,
            format: Format::F32,
            bytes,
            row_bytes: columns,
            order: RowOrder::Halves,
            scales,
        })
    }

    /// The format that keeps as much as was published.
    pub fn native(&self) -> Format {
        // A product of an 8-bit float and a scale; its makers multiply it in bfloat16.
        if self.scales.is_some() { Format::BF16 } else { self.format }
    }

    /// Elements of one row.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(0)
    }

    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// Row `index` in canonical order, in the stored format.
    pub fn row(&self, index: usize) -> Cow<'_, [u8]> {
        let stored = match (self.order, self.role) {
            (RowOrder::Interleaved, Role::Rotated { heads }) if self.shape.len() == 1 => {
                return Cow::Owned(self.interleaved_elements(heads));
            }
            (RowOrder::Interleaved, Role::Rotated { heads }) => interleaved(index, self.rows() / heads),
            _ => index,
        };
        let bytes = &self.bytes[stored * self.row_bytes..][..self.row_bytes];
        match &self.scales {
            Some(Scaled { scales, first }) => Cow::Owned(scales.row(first + stored, bytes)),
            None => Cow::Borrowed(bytes),
        }
    }

    /// A rotated projection's bias in canonical order; vectors are never stored in blocks.
    fn interleaved_elements(&self, heads: usize) -> Vec<u8> {
        let n = self.columns();
        let size = self.row_bytes / n;
        (0..n).flat_map(|i| &self.bytes[interleaved(i, n / heads) * size..][..size]).copied().collect()
    }
}

/// Bytes of a tensor.
fn size(format: Format, shape: &[usize]) -> Option<usize> {
    let (columns, rows) = shape.split_last()?;
    rows.iter().try_fold(format.row_bytes(*columns)?, |bytes, extent| bytes.checked_mul(*extent))
}

/// Where the row that Hugging Face has at `row` lies when the pairs of a head of `head_dim` rows are side by side.
fn interleaved(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    let (half, pair) = (within / (head_dim / 2), within % (head_dim / 2));
    head * head_dim + pair * 2 + half
}

#[cfg(test)]
mod tests {
    use super::interleaved;

    /// llama.cpp's converter reshapes a head's rows to `[2, head_dim / 2]` and swaps the two axes.
    #[test]
    fn undoes_the_converters_permutation() {
        let (heads, head_dim) = (3, 8);
        let mut converted = Vec::new();
        for head in 0..heads {
            for pair in 0..head_dim / 2 {
                for half in 0..2 {
                    converted.push(head * head_dim + half * head_dim / 2 + pair);
                }
            }
        }
        let back: Vec<_> = (0..heads * head_dim).map(|row| converted[interleaved(row, head_dim)]).collect();
        assert_eq!(back, (0..heads * head_dim).collect::<Vec<_>>());
    }
}
