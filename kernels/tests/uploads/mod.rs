//! Matrices whose bytes are brought to a device in pieces: what is read back is what was sent, whatever the sizes.

use burn::tensor::Device;
use kernels::{Format, Matrix, Place, upload};
use std::ops::Range;
use transfer::{Part, Piece, Ring};

const PIECE: usize = 8192;
/// Between two matrices in the source.
const GAP: usize = 40;

fn byte(at: usize) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Rows of 1 to thousands of bytes, lengths that are no multiple of a word, and some that are longer than a piece.
pub fn every_byte_arrives(device: &Device) {
    let shapes = [
        (Format::F32, 3, 5),
        (Format::BF16, 7, 9),
        (Format::Q8_0, 1, 32),
        (Format::Q4_1, 67, 96),
        (Format::F16, 999, 33),
    ];
    let mut at = 20;
    let wanted: Vec<(Matrix, Place, Range<usize>)> = shapes
        .into_iter()
        .map(|(format, n, k)| {
            let (matrix, place) =
                Matrix::unwritten(format, n, k, device).unwrap().expect("a device that takes uploads");
            let range = at..at + format.row_bytes(k).unwrap() * n;
            at = range.end + GAP - range.end % 4;
            (matrix, place, range)
        })
        .collect();
    let piece = |start: usize| {
        let end = (start + PIECE).min(at);
        let part = |(_, place, range): &(Matrix, Place, Range<usize>)| {
            let (from, until) = (start.max(range.start), end.min(range.end));
            let part = || Part { from: from - start..until - start, to: place.clone(), at: from - range.start };
            (from < until).then(part)
        };
        Piece { range: start as u64..end as u64, parts: wanted.iter().filter_map(part).collect() }
    };
    // Cut where matrices do not end, on words as chunks of a file are.
    let pieces = (0..at).step_by(PIECE).map(piece).collect();
    let source = |range: Range<u64>, to: &mut [u8]| {
        to.iter_mut().zip(range).for_each(|(to, at)| *to = byte(at as usize));
        Ok(())
    };
    let arrivals = upload(device, pieces, source, Ring { buffers: 3, buffer_bytes: PIECE, threads: 2 }).unwrap();
    arrivals.wait_all().unwrap();
    for (matrix, _, range) in wanted {
        let words: Vec<u32> = matrix.bytes().clone().into_data().try_to_vec().unwrap();
        let found: &[u8] = &bytemuck::cast_slice(&words)[..range.len()];
        assert!(found.iter().copied().eq(range.map(byte)), "{:?} [{}, {}]", matrix.format(), matrix.n(), matrix.k());
    }
}
