//! From sixteen stored weight rows to vectors with a row in each lane.
//!
//! What is read is inside the rows as long as the caller's block is: each function reads the bytes
//! of its blocks and nothing else.

use super::activations::GROUPS;
use super::avx512::Block;
use super::linear::TILE;
use super::tile::Tile;
use std::arch::x86_64::*;

// The block formats, for use as a constant parameter.
pub(super) const Q4_0: u8 = 0;
pub(super) const Q4_1: u8 = 1;
pub(super) const Q8_0: u8 = 2;

pub(super) const fn block_bytes(format: u8) -> usize {
    match format {
        Q4_0 => 18,
        Q4_1 => 20,
        _ => 34,
    }
}

/// Block `b` of each row.
///
/// # Safety
/// The rows have that block.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
pub(super) unsafe fn load<const F: u8>(rows: &Tile<TILE>, b: usize) -> Block {
    let at = b * block_bytes(F);
    // SAFETY: the parts of one block.
    unsafe {
        match F {
            Q4_0 => Block {
                weights: nibbles(transpose(rows, at + 2)),
                scale: halves(rows, at),
                minimum: _mm512_setzero_ps(),
            },
            Q4_1 => Block {
                weights: nibbles(transpose(rows, at + 4)),
                scale: halves(rows, at),
                minimum: halves(rows, at + 2),
            },
            _ => Block {
                weights: raised(transpose(rows, at + 2), transpose(rows, at + 18)),
                scale: halves(rows, at),
                minimum: _mm512_setzero_ps(),
            },
        }
    }
}

/// Four blocks of Q4_1 are five times sixteen bytes, of which every fifth vector after the
/// transposition is the blocks' scales and minimums: no byte has to be fetched on its own.
pub(super) type Four = [[__m512i; 4]; 5];

/// The blocks from `b` to `b + 4` of each row.
///
/// # Safety
/// The rows have those blocks.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
pub(super) unsafe fn load_four_q4_1(rows: &Tile<TILE>, b: usize) -> Four {
    let mut four = [[_mm512_setzero_si512(); 4]; 5];
    for (i, part) in four.iter_mut().enumerate() {
        // SAFETY: 80 bytes are four blocks.
        *part = unsafe { transpose(rows, b * block_bytes(Q4_1) + 16 * i) };
    }
    four
}

/// Block `i` of four.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
pub(super) fn four_q4_1(four: &Four, i: usize) -> Block {
    let all = four.as_flattened();
    let [scales, a, b, c, d] = all.as_chunks::<5>().0[i];
    let widen = |halves| _mm512_cvtph_ps(_mm512_cvtepi32_epi16(halves));
    Block { weights: nibbles([a, b, c, d]), scale: widen(scales), minimum: widen(_mm512_srli_epi32::<16>(scales)) }
}

/// Nibbles as stored, from 0 to 15.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn nibbles(bytes: [__m512i; 4]) -> [__m512i; GROUPS] {
    let low = _mm512_set1_epi8(15);
    let mut nibbles = [_mm512_setzero_si512(); GROUPS];
    for (g, bytes) in bytes.into_iter().enumerate() {
        nibbles[g] = _mm512_and_si512(bytes, low);
        nibbles[g + 4] = _mm512_and_si512(_mm512_srli_epi16::<4>(bytes), low);
    }
    nibbles
}

/// Signed bytes, 128 higher, because `vpdpbusd` takes them unsigned.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn raised(low: [__m512i; 4], high: [__m512i; 4]) -> [__m512i; GROUPS] {
    let sign = _mm512_set1_epi8(-128);
    let mut raised = [_mm512_setzero_si512(); GROUPS];
    for g in 0..4 {
        raised[g] = _mm512_xor_si512(low[g], sign);
        raised[g + 4] = _mm512_xor_si512(high[g], sign);
    }
    raised
}

/// The binary16 at byte `at` of each row, widened.
///
/// # Safety
/// Those two bytes are inside a row.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn halves(rows: &Tile<TILE>, at: usize) -> __m512 {
    let mut halves = [0u16; TILE];
    for (i, half) in halves.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *half = unsafe { rows.read(i, at) };
    }
    // SAFETY: sixteen times two bytes.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(halves.as_ptr().cast()) })
}

/// Sixteen bytes from `at` on of each row; vector `i` gets the four bytes from `at + 4 * i` on,
/// row by row.
///
/// # Safety
/// Those sixteen bytes are inside a row.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn transpose(rows: &Tile<TILE>, at: usize) -> [__m512i; 4] {
    let mut fours = [_mm512_setzero_si512(); 4];
    for (i, four) in fours.iter_mut().enumerate() {
        // SAFETY: the caller's promise; any sixteen bytes are a vector.
        let [a, b, c, d] =
            unsafe { [rows.read(i, at), rows.read(i + 4, at), rows.read(i + 8, at), rows.read(i + 12, at)] };
        *four = _mm512_castsi128_si512(a);
        *four = _mm512_inserti32x4::<1>(*four, b);
        *four = _mm512_inserti32x4::<2>(*four, c);
        *four = _mm512_inserti32x4::<3>(*four, d);
    }
    let [a, b, c, d] = fours;
    let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab_low, cd_low),
        _mm512_unpackhi_epi64(ab_low, cd_low),
        _mm512_unpacklo_epi64(ab_high, cd_high),
        _mm512_unpackhi_epi64(ab_high, cd_high),
    ]
}
