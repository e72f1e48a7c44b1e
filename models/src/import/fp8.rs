//! Weights in 8-bit floats (E4M3: Micikevicius et al. 2022, arXiv:2209.05433) with scales beside them, as DeepSeek and Qwen
//! publish them. Read row by row into float32; what a snapshot keeps of them is the sealer's choice.

/// The scales of one matrix.
#[derive(Clone, Debug)]
pub(crate) struct Scales {
    /// `[row blocks, column blocks]`
    pub values: Vec<f32>,
    /// Rows and columns that share a scale.
    pub block: [usize; 2],
    /// Column blocks.
    pub across: usize,
}

impl Scales {
    /// Row `row` of the matrix, whose bytes these are, as little-endian float32.
    pub fn row(&self, row: usize, bytes: &[u8]) -> Vec<u8> {
        let scales = &self.values[row / self.block[0] * self.across..][..self.across];
        let value = |(column, &byte): (usize, &u8)| e4m3(byte) * scales[column / self.block[1]];
        bytes.iter().enumerate().flat_map(|x| value(x).to_le_bytes()).collect()
    }
}

/// One sign bit, four bits of exponent with a bias of 7, three of fraction; no infinities.
fn e4m3(byte: u8) -> f32 {
    let (exponent, fraction) = (byte >> 3 & 15, f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => fraction / 512.0,
        _ => (1.0 + fraction / 8.0) * f32::from(exponent).exp2() / 128.0,
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_format() {
        for (byte, value) in
            [(0x00, 0.0), (0x38, 1.0), (0x01, 1.0 / 512.0), (0x08, 1.0 / 64.0), (0x7E, 448.0), (0xC1, -2.25)]
        {
            assert_eq!(e4m3(byte), value, "{byte:#x}");
        }
        assert!(e4m3(0x7F).is_nan() && e4m3(0xFF).is_nan());
    }

    #[test]
    fn each_block_has_its_scale() {
        let scales = Scales { values: vec![1.0, 2.0, 4.0, 8.0], block: [2, 3], across: 2 };
        let row = |row| {
            let bytes = scales.row(row, &[0x38; 5]);
            bytes.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x)).collect::<Vec<_>>()
        };
        let odd = Scales { values: vec![0.0137], block: [1, 1], across: 1 };
        assert_eq!(odd.row(0, &[0x39]), (1.125f32 * 0.0137).to_le_bytes());
        assert_eq!(row(1), [1.0, 1.0, 1.0, 2.0, 2.0]);
        assert_eq!(row(2), [4.0, 4.0, 4.0, 8.0, 8.0]);
    }
}
