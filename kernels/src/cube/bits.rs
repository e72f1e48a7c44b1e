//! Numbers out of words: buffers hold 32-bit words whatever their bytes mean, so that a device needs neither 8-bit nor 16-bit
//! types. Bytes lie in a word from the lowest up.

use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// Four numbers side by side.
pub(super) type Quad = Vector<f32, Const<4>>;

/// Byte `at`.
#[cube]
pub(super) fn byte(words: &[u32], at: usize) -> u32 {
    (words[at / 4] >> (8 * (at as u32 % 4))) & 0xff
}

/// Four bytes from `at` on, wherever that is. Reads the word behind them too, which every weight has.
#[cube]
pub(super) fn four_bytes(words: &[u32], at: usize) -> u32 {
    let shift = 8 * (at as u32 % 4);
    let (low, high) = (words[at / 4], words[at / 4 + 1]);
    // In two steps: a shift by 32 is none.
    (low >> shift) | ((high << 1u32) << (31 - shift))
}

/// The 16 bits at the even byte `at`.
#[cube]
pub(super) fn sixteen(words: &[u32], at: usize) -> u32 {
    (words[at / 4] >> (8 * (at as u32 % 4))) & 0xffff
}

/// A binary16 at the even byte `at`.
#[cube]
pub(super) fn half_at(words: &[u32], at: usize) -> f32 {
    half(sixteen(words, at))
}

/// The binary16 of these bits, exactly.
#[cube]
pub(super) fn half(bits: u32) -> f32 {
    let (exponent, fraction) = ((bits >> 10) & 31, bits & 0x3ff);
    let sign = (bits & 0x8000) << 16;
    // Computed apart, as devices may take subnormal binary32 for 0: 2^-24 each.
    let small = f32::cast_from(fraction) * 5.960_464_5e-8;
    let usual = f32::from_bits(((exponent + 112) << 23) | (fraction << 13));
    let beyond = f32::from_bits(0x7f80_0000u32 | (fraction << 13));
    let magnitude = select(exponent == 0, small, select(exponent == 31, beyond, usual));
    f32::from_bits(magnitude.to_bits() | sign)
}

/// The nearest binary16, ties to even; what is beyond its range becomes the end of it.
#[cube]
pub(super) fn to_half(x: f32) -> u32 {
    let sign = (x.to_bits() >> 16) & 0x8000;
    let wide = x.to_bits() & 0x7fff_ffff;
    let magnitude = min(wide, 0x477f_e000u32); // 65504
    // Below 2^-14 the unit is 2^-24: adding 2^23 rounds to units, in the lowest bits.
    let units = (f32::from_bits(magnitude) * 16_777_216.0 + 8_388_608.0).to_bits() & 0x7ff;
    let rounded = (magnitude + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    let bits = select(magnitude < 0x3880_0000u32, units, rounded - 0x1_c000);
    sign | select(wide > 0x7f80_0000u32, 0x7e00u32, bits)
}

/// A signed byte, from its lowest 8 bits.
#[cube]
pub(super) fn signed(bits: u32) -> f32 {
    f32::cast_from((bits & 0xff) ^ 0x80) - 128.0
}

/// `x` of at most ±127, rounded to the nearest whole number, ties to even, as a byte.
#[cube]
pub(super) fn to_signed(x: f32) -> u32 {
    // 1.5 · 2^23: the sum's lowest bits are the number.
    (x + 12_582_912.0).to_bits() & 0xff
}

/// `(word >> (shift + i · step)) & mask` for the four `i`.
#[cube]
pub(super) fn fields(word: u32, shift: u32, #[comptime] step: u32, #[comptime] mask: u32) -> Vector<u32, Const<4>> {
    let mut out = Vector::<u32, Const<4>>::empty();
    #[unroll]
    for i in 0..4u32 {
        out.insert(comptime!(i as usize), (word >> (shift + comptime!(i * step))) & mask);
    }
    out
}

/// `scale · (number + offset)` for each.
#[cube]
pub(super) fn scaled(numbers: Vector<u32, Const<4>>, scale: f32, offset: f32) -> Quad {
    (Quad::cast_from(numbers) + Quad::new(offset)) * Quad::new(scale)
}

/// `scale · number + offset` for each.
#[cube]
pub(super) fn shifted(numbers: Vector<u32, Const<4>>, scale: f32, offset: f32) -> Quad {
    Quad::cast_from(numbers) * Quad::new(scale) + Quad::new(offset)
}
