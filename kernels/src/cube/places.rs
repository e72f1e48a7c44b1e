//! Where a batch's rows are in their sequences, as kernels read it: four words for each row, then the block tables.
//!
//! | word | |
//! |---|---|
//! | 0 | positions up to the row's own; 0: a row of no segment |
//! | 1 | where its segment's block table begins, in words |
//! | 2 | rows of its segment before it |
//! | 3 | rows of its segment from it on |

use super::tensor::count;
use crate::Segment;

/// Words of one row.
pub(super) const PLACE: usize = 4;

/// The words for `rows` rows.
pub(super) fn places(rows: usize, segments: &[Segment]) -> Vec<u32> {
    let mut words = vec![0; rows * PLACE];
    for segment in segments {
        let table = count(words.len());
        for i in 0..segment.rows {
            let place = [count(segment.position + i + 1), table, count(i), count(segment.rows - i)];
            words[(segment.row + i) * PLACE..][..PLACE].copy_from_slice(&place);
        }
        words.extend_from_slice(&segment.blocks);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_know_their_table_and_their_segment() {
        let segment = |row, rows, position, blocks: &[u32]| Segment { row, rows, position, blocks: blocks.to_vec() };
        let words = places(4, &[segment(0, 2, 31, &[7, 9]), segment(3, 1, 0, &[4])]);
        assert_eq!(words[..8], [32, 16, 0, 2, 33, 16, 1, 1]);
        assert_eq!(words[8..16], [0, 0, 0, 0, 1, 18, 0, 1]);
        assert_eq!(words[16..], [7, 9, 4]);
    }
}
