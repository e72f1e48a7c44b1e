//! How numbers are stored: the formats a weight may have, and their reference conversions.
//!
//! **Contract:** block layouts are GGUF's, byte for byte; `quantize_row` gives the bytes that
//! llama.cpp's reference quantiser gives. Nothing here is fast or threaded: the kernels are in
//! `cpu`, this is what they are compared with, and what importers and `seal` use.

mod superblocks;

use half::{bf16, f16};

/// Elements in a block of every quantised format.
pub const BLOCK: usize = 32;

/// How a matrix's bytes are stored, row by row. The blocks are GGUF's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types)]
pub enum Format {
    /// IEEE 754 binary32, little endian.
    F32,
    /// IEEE 754 binary16, little endian.
    F16,
    /// The upper half of a binary32, little endian.
    BF16,
    /// 32 elements in 34 bytes: `d: f16`, `q: [i8; 32]`; element = `d * q`.
    Q8_0,
    /// 32 elements in 18 bytes: `d: f16`, 32 nibbles; element = `d * (q - 8)`.
    /// Byte `i` holds element `i` in its low and element `i + 16` in its high nibble.
    Q4_0,
    /// 32 elements in 20 bytes: `d: f16`, `m: f16`, nibbles as in `Q4_0`; element = `d * q + m`.
    Q4_1,
    /// 32 elements in 22 bytes: `d: f16`, a fifth bit for each, nibbles as in `Q4_0`; element = `d * (q - 16)`. Only read.
    Q5_0,
    /// 32 elements in 24 bytes: `d: f16`, `m: f16`, fifth bits, nibbles; element = `d * q + m`. Only read.
    Q5_1,
    /// 32 elements in 18 bytes: `d: f16`, nibbles that stand for 16 uneven levels. Only read.
    IQ4_NL,
    /// 256 elements in 84 bytes: 2 bits each, scale and minimum of every 16 in 4 bits. Only read.
    Q2_K,
    /// 256 elements in 110 bytes: 3 bits each, a scale of every 16 in 6 bits. Only read.
    Q3_K,
    /// 256 elements in 144 bytes: 4 bits each, scale and minimum of every 32 in 6 bits. Only read.
    Q4_K,
    /// 256 elements in 176 bytes: 5 bits each, scale and minimum of every 32 in 6 bits. Only read.
    Q5_K,
    /// 256 elements in 210 bytes: 6 bits each, a scale of every 16 in 8 bits. Only read.
    Q6_K,
}

impl Format {
    /// Every format, in the order of this enumeration.
    pub const ALL: [Self; 14] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::IQ4_NL,
        Self::Q2_K,
        Self::Q3_K,
        Self::Q4_K,
        Self::Q5_K,
        Self::Q6_K,
    ];
    /// The formats that [`Format::quantize_row`] writes.
    pub const WRITTEN: [Self; 6] = [Self::F32, Self::F16, Self::BF16, Self::Q8_0, Self::Q4_0, Self::Q4_1];

    /// The word for it in a snapshot's table.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::IQ4_NL => "iq4_nl",
            Self::Q2_K => "q2_k",
            Self::Q3_K => "q3_k",
            Self::Q4_K => "q4_k",
            Self::Q5_K => "q5_k",
            Self::Q6_K => "q6_k",
        }
    }

    /// The format called `name`, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Elements that are stored together: 1, [`BLOCK`], or 256.
    pub fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 1,
            Self::Q8_0 | Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::IQ4_NL => BLOCK,
            Self::Q2_K | Self::Q3_K | Self::Q4_K | Self::Q5_K | Self::Q6_K => superblocks::ELEMENTS,
        }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Q8_0 => 34,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::IQ4_NL => 18,
            Self::Q2_K => 84,
            Self::Q3_K => 110,
            Self::Q4_K => 144,
            Self::Q5_K => 176,
            Self::Q6_K => 210,
        }
    }

    /// Bytes of a row of `k` elements; `None` where `k` is no multiple of the block, or too large.
    pub fn row_bytes(self, k: usize) -> Option<usize> {
        if !k.is_multiple_of(self.block_elements()) {
            return None;
        }
        (k / self.block_elements()).checked_mul(self.block_bytes())
    }

    /// Writes the elements of `row` to `out`.
    ///
    /// # Panics
    /// Where `row` is not exactly the bytes of `out.len()` elements.
    pub fn dequantize_row(self, row: &[u8], out: &mut [f32]) {
        self.check_row(row.len(), out.len());
        let blocks = row.chunks_exact(self.block_bytes());
        for (block, out) in blocks.zip(out.chunks_exact_mut(self.block_elements())) {
            match self {
                Self::F32 => out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
                Self::F16 => out[0] = half_at(block, 0),
                Self::BF16 => out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32(),
                Self::Q8_0 => dequantize_q8_0(block, out),
                Self::Q4_0 => {
                    let d = half_at(block, 0);
                    dequantize_nibbles(&block[2..], out, |q| d * (f32::from(q) - 8.0));
                }
                Self::Q4_1 => {
                    let (d, m) = (half_at(block, 0), half_at(block, 2));
                    dequantize_nibbles(&block[4..], out, |q| d * f32::from(q) + m);
                }
                Self::Q5_0 => {
                    let d = half_at(block, 0);
                    dequantize_five_bits(&block[2..], out, |q| d * (f32::from(q) - 16.0));
                }
                Self::Q5_1 => {
                    let (d, m) = (half_at(block, 0), half_at(block, 2));
                    dequantize_five_bits(&block[4..], out, |q| d * f32::from(q) + m);
                }
                Self::IQ4_NL => {
                    let d = half_at(block, 0);
                    dequantize_nibbles(&block[2..], out, |q| d * f32::from(LEVELS[usize::from(q)]));
                }
                Self::Q2_K => superblocks::q2(block, out),
                Self::Q3_K => superblocks::q3(block, out),
                Self::Q4_K => superblocks::q4(block, out),
                Self::Q5_K => superblocks::q5(block, out),
                Self::Q6_K => superblocks::q6(block, out),
            }
        }
    }

    /// Writes `row` in this format to `out`.
    ///
    /// # Panics
    /// Where `out` is not exactly the bytes of `row.len()` elements, or the format is none of [`Format::WRITTEN`].
    pub fn quantize_row(self, row: &[f32], out: &mut [u8]) {
        self.check_row(out.len(), row.len());
        let blocks = row.chunks_exact(self.block_elements());
        for (x, out) in blocks.zip(out.chunks_exact_mut(self.block_bytes())) {
            match self {
                Self::F32 => out.copy_from_slice(&x[0].to_le_bytes()),
                Self::F16 => out.copy_from_slice(&f16::from_f32(x[0]).to_le_bytes()),
                Self::BF16 => out.copy_from_slice(&bf16::from_f32(x[0]).to_le_bytes()),
                Self::Q8_0 => quantize_q8_0(x, out),
                Self::Q4_0 => quantize_q4_0(x, out),
                Self::Q4_1 => quantize_q4_1(x, out),
                _ => panic!("{} is only read", self.name()),
            }
        }
    }

    fn check_row(self, bytes: usize, elements: usize) {
        assert_eq!(
            Some(bytes),
            self.row_bytes(elements),
            "{} bytes are not {elements} elements of {}",
            bytes,
            self.name()
        );
    }
}

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn dequantize_q8_0(block: &[u8], out: &mut [f32]) {
    let d = half_at(block, 0);
    for (out, &q) in out.iter_mut().zip(&block[2..]) {
        *out = d * f32::from(q as i8);
    }
}

fn dequantize_nibbles(nibbles: &[u8], out: &mut [f32], value: impl Fn(u8) -> f32) {
    let (low, high) = out.split_at_mut(BLOCK / 2);
    for ((low, high), &byte) in low.iter_mut().zip(high).zip(nibbles) {
        *low = value(byte & 15);
        *high = value(byte >> 4);
    }
}

/// The levels of IQ4_NL.
const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Nibbles with a fifth bit each: 4 bytes of these, then 16 bytes of those.
fn dequantize_five_bits(bytes: &[u8], out: &mut [f32], value: impl Fn(u8) -> f32) {
    let fifth = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let bit = |i: usize| ((fifth >> i & 1) as u8) << 4;
    for (i, &byte) in bytes[4..].iter().enumerate() {
        out[i] = value(byte & 15 | bit(i));
        out[i + BLOCK / 2] = value(byte >> 4 | bit(i + BLOCK / 2));
    }
}

fn quantize_q8_0(x: &[f32], out: &mut [u8]) {
    let largest = x.iter().fold(0f32, |a, x| a.max(x.abs()));
    let d = largest / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    out[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    for (out, x) in out[2..].iter_mut().zip(x) {
        *out = (x * inverse).round() as i8 as u8;
    }
}

fn quantize_q4_0(x: &[f32], out: &mut [u8]) {
    // The element of the largest magnitude becomes exactly -8 or (negative d) its mirror.
    let extreme = x.iter().fold(0f32, |a, &x| if a.abs() < x.abs() { x } else { a });
    let d = extreme / -8.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    out[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    pack_nibbles(x, &mut out[2..], |x| x * inverse + 8.5);
}

fn quantize_q4_1(x: &[f32], out: &mut [u8]) {
    let least = x.iter().copied().fold(f32::MAX, f32::min);
    let most = x.iter().copied().fold(f32::MIN, f32::max);
    let d = (most - least) / 15.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    out[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    out[2..4].copy_from_slice(&f16::from_f32(least).to_le_bytes());
    pack_nibbles(x, &mut out[4..], |x| (x - least) * inverse + 0.5);
}

/// `level` gives a value whose integer part is the nibble.
fn pack_nibbles(x: &[f32], out: &mut [u8], level: impl Fn(f32) -> f32) {
    let nibble = |x: f32| (level(x) as i8).clamp(0, 15) as u8;
    for (i, out) in out.iter_mut().enumerate() {
        *out = nibble(x[i]) | nibble(x[i + BLOCK / 2]) << 4;
    }
}
