//! GGUF's formats of 256 elements, whose small blocks have quantised scales themselves ("K-quants").
//!
//! Layouts as in ggml's `ggml-common.h`; each function takes one superblock's bytes.

use super::half_at;

/// Elements of a superblock.
pub(super) const ELEMENTS: usize = 256;

/// Scales and minima of 16 elements in a nibble each (16 bytes), 2 bits an element (64), `d`, `dmin`.
pub(super) fn q2(block: &[u8], out: &mut [f32]) {
    let (scales, bits) = (&block[..16], &block[16..80]);
    let (d, least) = (half_at(block, 80), half_at(block, 82));
    for (i, out) in out.chunks_exact_mut(16).enumerate() {
        let (step, minimum) = (d * f32::from(scales[i] & 15), least * f32::from(scales[i] >> 4));
        for (l, out) in out.iter_mut().enumerate() {
            *out = step * f32::from(two_bits(bits, i, l)) - minimum;
        }
    }
}

/// A third bit for each element (32 bytes), 2 bits (64), scales of 16 elements in 6 bits (12), `d`.
pub(super) fn q3(block: &[u8], out: &mut [f32]) {
    let (high, bits, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half_at(block, 108);
    for (i, out) in out.chunks_exact_mut(16).enumerate() {
        let low = scales[i % 8] >> (4 * (i / 8)) & 15;
        let top = scales[8 + i % 4] >> (2 * (i / 4)) & 3;
        let step = d * (f32::from(low | top << 4) - 32.0);
        for (l, out) in out.iter_mut().enumerate() {
            // Every 32 elements have their own bit of the same 32 bytes.
            let third = high[i % 2 * 16 + l] >> (i / 2) & 1;
            *out = step * (f32::from(two_bits(bits, i, l)) - if third == 1 { 0.0 } else { 4.0 });
        }
    }
}

/// `d`, `dmin`, scales and minima of 32 elements in 6 bits (12 bytes), nibbles (128).
pub(super) fn q4(block: &[u8], out: &mut [f32]) {
    let (d, least) = (half_at(block, 0), half_at(block, 2));
    for (i, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = six_bits(&block[4..16], i);
        let (step, minimum) = (d * f32::from(scale), least * f32::from(minimum));
        for (l, out) in out.iter_mut().enumerate() {
            *out = step * f32::from(nibble(&block[16..144], i, l)) - minimum;
        }
    }
}

/// As [`q4`], with a fifth bit for each element (32 bytes) before the nibbles.
pub(super) fn q5(block: &[u8], out: &mut [f32]) {
    let (d, least) = (half_at(block, 0), half_at(block, 2));
    let high = &block[16..48];
    for (i, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = six_bits(&block[4..16], i);
        let (step, minimum) = (d * f32::from(scale), least * f32::from(minimum));
        for (l, out) in out.iter_mut().enumerate() {
            let fifth = (high[l] >> i & 1) << 4;
            *out = step * f32::from(nibble(&block[48..176], i, l) | fifth) - minimum;
        }
    }
}

/// Nibbles (128 bytes), 2 more bits for each element (64), scales of 16 elements in 8 bits (16), `d`.
pub(super) fn q6(block: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for (i, out) in out.chunks_exact_mut(32).enumerate() {
        // Of each half of 128 elements: four runs of 32.
        let (half, run) = (i / 4, i % 4);
        for (l, out) in out.iter_mut().enumerate() {
            let nibble = low[half * 64 + run % 2 * 32 + l] >> (4 * (run / 2)) & 15;
            let top = high[half * 32 + l] >> (2 * run) & 3;
            let scale = f32::from(scales[half * 8 + run * 2 + l / 16] as i8);
            *out = d * scale * (f32::from(nibble | top << 4) - 32.0);
        }
    }
}

/// Element `l` of the 16 elements `i`: of each half of 128, every two sixteens have their own bits of the same 32 bytes.
fn two_bits(bits: &[u8], i: usize, l: usize) -> u8 {
    bits[i / 8 * 32 + i % 2 * 16 + l] >> (2 * (i / 2 % 4)) & 3
}

/// Element `l` of the 32 elements `i`: two thirty-twos share 32 bytes.
fn nibble(bytes: &[u8], i: usize, l: usize) -> u8 {
    bytes[i / 2 * 32 + l] >> (4 * (i % 2)) & 15
}

/// Scale and minimum of the 32 elements `i`: eight of each in twelve bytes.
fn six_bits(bytes: &[u8], i: usize) -> (u8, u8) {
    if i < 4 {
        return (bytes[i] & 63, bytes[i + 4] & 63);
    }
    (bytes[i + 4] & 15 | bytes[i - 4] >> 6 << 4, bytes[i + 4] >> 4 | bytes[i] >> 6 << 4)
}
