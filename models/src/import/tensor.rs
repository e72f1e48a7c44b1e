//! A tensor as its makers stored it: shared bytes, how to read them, and in which order its rows lie.

use super::plan::{Expected, Role};
use bytes::Bytes;
use kernels::Format;

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
}

/// In which order rows lie in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowOrder {
    /// As Hugging Face has them: a head's first halves of the rotated pairs, then the second halves.
    Halves,
    /// As llama.cpp's converter writes the queries and keys of Llama: the two of a pair side by side.
    Interleaved,
}

impl Stored {
    /// `None` where `bytes` are not exactly as many as the shape needs in this format.
    pub fn new(expected: &Expected, format: Format, bytes: Bytes, order: RowOrder) -> Option<Self> {
        let (columns, rows) = expected.shape.split_last()?;
        let row_bytes = format.row_bytes(*columns)?;
        let rows = rows.iter().try_fold(1usize, |all, extent| all.checked_mul(*extent))?;
        if rows.checked_mul(row_bytes)? != bytes.len() {
            return None;
        }
        let Expected { name, shape, role } = expected.clone();
        Some(Self { name, shape, role, format, bytes, row_bytes, order })
    }

    /// Elements of one row.
    pub fn columns(&self) -> usize {
        self.shape.last().copied().unwrap_or(0)
    }

    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// Row `index` in canonical order, in the stored format.
    pub fn row(&self, index: usize) -> &[u8] {
        let stored = match (self.order, self.role) {
            (RowOrder::Interleaved, Role::Rotated { heads }) => interleaved(index, self.rows() / heads),
            _ => index,
        };
        &self.bytes[stored * self.row_bytes..][..self.row_bytes]
    }
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
