//! Four consecutive elements out of GGUF's blocks of 256. Layouts: see `format::superblocks`, which this mirrors.

use super::bits::{Quad, byte, fields, four_bytes, half_at, scaled, shifted, signed};
use crate::Format;
use burn_cubecl::cubecl;
use cubecl::prelude::*;

/// Elements `4 · quad` on of the row whose blocks begin at byte `row`.
#[cube]
pub(super) fn quad_of_superblock(words: &[u32], row: usize, quad: usize, #[comptime] format: Format) -> Quad {
    let at = row + quad / 64 * comptime!(format.block_bytes());
    let part = quad % 64;
    if comptime!(format == Format::Q2_K) {
        q2(words, at, part)
    } else if comptime!(format == Format::Q3_K) {
        q3(words, at, part)
    } else if comptime!(format == Format::Q4_K) {
        let numbers = nibbles(words, at + 16, part);
        with_six_bits(words, at, part / 8, numbers)
    } else if comptime!(format == Format::Q5_K) {
        let low = nibbles(words, at + 48, part);
        let high = fields(four_bytes(words, at + 16 + 4 * (part % 8)), part as u32 / 8, 8u32, 1u32);
        with_six_bits(words, at, part / 8, low | (high << Vector::<u32, Const<4>>::new(4u32)))
    } else {
        q6(words, at, part)
    }
}

/// Nibbles of a run of 32: two runs share 32 bytes.
#[cube]
fn nibbles(words: &[u32], at: usize, part: usize) -> Vector<u32, Const<4>> {
    let (run, within) = (part / 8, 4 * (part % 8));
    fields(four_bytes(words, at + run / 2 * 32 + within), 4 * (run as u32 % 2), 8u32, 15u32)
}

/// `d · scale · number − dmin · minimum`, the two of run `run` in 6 bits each: eight of each in the twelve bytes from 4 on.
#[cube]
fn with_six_bits(words: &[u32], at: usize, run: usize, numbers: Vector<u32, Const<4>>) -> Quad {
    let mut scale = byte(words, at + 4 + run) & 63;
    let mut minimum = byte(words, at + 8 + run) & 63;
    if run >= 4 {
        let low = byte(words, at + 8 + run);
        scale = (low & 15) | ((byte(words, at + run) >> 6) << 4);
        minimum = (low >> 4) | ((byte(words, at + 4 + run) >> 6) << 4);
    }
    let step = half_at(words, at) * f32::cast_from(scale);
    shifted(numbers, step, -half_at(words, at + 2) * f32::cast_from(minimum))
}

/// Two bits of each of 16 elements: of each half of 128, every two sixteens have their own bits of the same 32 bytes.
#[cube]
fn two_bits(words: &[u32], at: usize, part: usize) -> Vector<u32, Const<4>> {
    let (run, within) = (part / 4, 4 * (part % 4));
    let word = four_bytes(words, at + run / 8 * 32 + run % 2 * 16 + within);
    fields(word, 2 * (run as u32 / 2 % 4), 8u32, 3u32)
}

#[cube]
fn q2(words: &[u32], at: usize, part: usize) -> Quad {
    let scale = byte(words, at + part / 4);
    let step = half_at(words, at + 80) * f32::cast_from(scale & 15);
    let minimum = half_at(words, at + 82) * f32::cast_from(scale >> 4);
    shifted(two_bits(words, at + 16, part), step, -minimum)
}

#[cube]
fn q3(words: &[u32], at: usize, part: usize) -> Quad {
    let run = part / 4;
    let low = (byte(words, at + 96 + run % 8) >> (4 * (run as u32 / 8))) & 15;
    let top = (byte(words, at + 104 + run % 4) >> (2 * (run as u32 / 4))) & 3;
    let step = half_at(words, at + 108) * (f32::cast_from(low | (top << 4)) - 32.0);
    let third = fields(four_bytes(words, at + run % 2 * 16 + 4 * (part % 4)), run as u32 / 2, 8u32, 1u32);
    let numbers = two_bits(words, at + 32, part) | (third << Vector::<u32, Const<4>>::new(2u32));
    scaled(numbers, step, -4.0)
}

#[cube]
fn q6(words: &[u32], at: usize, part: usize) -> Quad {
    // Of each half of 128 elements: four runs of 32.
    let (half, run, within) = (part / 32, part / 8 % 4, 4 * (part % 8));
    let low = four_bytes(words, at + half * 64 + run % 2 * 32 + within);
    let top = four_bytes(words, at + 128 + half * 32 + within);
    let numbers = fields(low, 4 * (run as u32 / 2), 8u32, 15u32)
        | (fields(top, 2 * run as u32, 8u32, 3u32) << Vector::<u32, Const<4>>::new(4u32));
    let scale = signed(byte(words, at + 192 + half * 8 + run * 2 + within / 16));
    scaled(numbers, half_at(words, at + 208) * scale, -32.0)
}
