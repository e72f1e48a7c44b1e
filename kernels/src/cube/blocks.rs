//! Four consecutive elements out of blocks of 32. Layouts: see [`crate::Format`].

use super::bits::{Quad, fields, four_bytes, half_at, scaled, shifted, signed};
use crate::Format;
use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// The levels of IQ4_NL, a byte each.
const LEVELS: [u32; 4] = [0xbfad_9881, 0xf6ea_ddcf, 0x2619_0d01, 0x7159_4535];

/// Elements `4 · quad` on of the row whose blocks begin at byte `row`.
#[cube]
pub(super) fn quad_of_block(words: &[u32], row: usize, quad: usize, #[comptime] format: Format) -> Quad {
    let at = row + quad / 8 * comptime!(format.block_bytes());
    let d = half_at(words, at);
    let part = quad % 8;
    if comptime!(format == Format::Q8_0) {
        let word = four_bytes(words, at + 2 + 4 * part);
        scaled(fields(word ^ 0x8080_8080u32, 0u32, 8u32, 0xffu32), d, -128.0)
    } else {
        let numbers = comptime!(match format {
            Format::Q4_1 => 4usize,
            Format::Q5_0 => 6usize,
            Format::Q5_1 => 8usize,
            _ => 2usize,
        });
        // Byte `i` has element `i` in its low and element `i + 16` in its high nibble.
        let word = four_bytes(words, at + numbers + 4 * (part % 4));
        let nibbles = fields(word, 4 * (part as u32 / 4), 8u32, 15u32);
        if comptime!(format == Format::Q4_0) {
            scaled(nibbles, d, -8.0)
        } else if comptime!(format == Format::Q4_1) {
            shifted(nibbles, d, half_at(words, at + 2))
        } else if comptime!(format == Format::Q5_0) {
            scaled(fifth(words, at + 2, part, nibbles), d, -16.0)
        } else if comptime!(format == Format::Q5_1) {
            shifted(fifth(words, at + 4, part, nibbles), d, half_at(words, at + 2))
        } else {
            levels(nibbles, d)
        }
    }
}

/// The nibbles with the fifth bits at byte `at`, one for each element of the block.
#[cube]
fn fifth(words: &[u32], at: usize, part: usize, nibbles: Vector<u32, Const<4>>) -> Vector<u32, Const<4>> {
    let bits = fields(four_bytes(words, at), 4 * part as u32, 1u32, 1u32);
    nibbles | (bits << Vector::<u32, Const<4>>::new(4u32))
}

#[cube]
fn levels(nibbles: Vector<u32, Const<4>>, d: f32) -> Quad {
    let mut out = Quad::empty();
    #[unroll]
    for i in 0..4usize {
        let nibble = nibbles.extract(i);
        let low = select(nibble < 4, comptime!(LEVELS[0]), comptime!(LEVELS[1]));
        let high = select(nibble < 12, comptime!(LEVELS[2]), comptime!(LEVELS[3]));
        let word = select(nibble < 8, low, high);
        out.insert(i, d * signed(word >> (8 * (nibble % 4))));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::LEVELS;

    #[test]
    fn the_levels_are_the_formats() {
        let bytes: Vec<i8> = LEVELS.iter().flat_map(|word| word.to_le_bytes()).map(|byte| byte as i8).collect();
        assert_eq!(bytes, [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]);
    }
}
