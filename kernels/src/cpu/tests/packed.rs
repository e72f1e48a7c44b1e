use super::{numbers, pool};
use crate::cpu::dispatch::{Level, On};
use crate::cpu::linear::linears;
use crate::cpu::weight::Weight;
use crate::{Format, Packing, TILE_ROWS};
use half::f16;
use proptest::prelude::*;

/// Formats that are packed, and columns of a chunk.
const PACKED: [(Format, usize); 7] = [
    (Format::BF16, 2),
    (Format::Q8_0, 64),
    (Format::Q4_0, 64),
    (Format::Q4_1, 32),
    (Format::Q4_K, 256),
    (Format::Q5_K, 256),
    (Format::Q6_K, 256),
];

/// `[n, k]` of any bits whose scales are numbers of about 1/64.
fn stored(format: Format, seed: u64, n: usize, k: usize) -> Vec<u8> {
    let row_bytes = format.row_bytes(k).unwrap();
    if Format::WRITTEN.contains(&format) {
        let mut bytes = vec![0; n * row_bytes];
        for (row, out) in numbers(seed, n * k).chunks(k).zip(bytes.chunks_mut(row_bytes)) {
            format.quantize_row(row, out);
        }
        return bytes;
    }
    let mut bytes: Vec<u8> = numbers(seed, n * row_bytes).iter().map(|x| (x * 1e6) as i32 as u8).collect();
    let halves: &[usize] = if format == Format::Q6_K { &[208] } else { &[0, 2] };
    for (i, block) in bytes.chunks_mut(format.block_bytes()).enumerate() {
        for at in halves {
            let scale = f16::from_f32(0.01 + 0.001 * ((i + at) % 7) as f32);
            block[*at..][..2].copy_from_slice(&scale.to_le_bytes());
        }
    }
    bytes
}

fn packed(format: Format, k: usize, rows: &[u8]) -> Vec<u8> {
    let row_bytes = format.row_bytes(k).unwrap();
    let n = rows.len() / row_bytes;
    let mut out = vec![1; Packing::Tiles16.bytes(format, n, k).unwrap()];
    let tile = out.len() / n.div_ceil(TILE_ROWS);
    for (rows, tile) in rows.chunks(TILE_ROWS * row_bytes).zip(out.chunks_mut(tile)) {
        Packing::Tiles16.pack(format, k, rows, tile);
    }
    out
}

fn multiply(on: On, x: &[f32], w: &Weight) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len() / w.k() * w.n()];
    linears(on, x, [(w, &mut out)]);
    out
}

fn levels() -> impl Iterator<Item = Level> {
    Level::available().into_iter().filter(|level| level.takes_tiles())
}

/// How far off a product may be: activations are off by half a step of their block, in bfloat16 by 2^-9 of themselves.
fn bound(format: Format, level: Level, x: &[f32], w: &[f32]) -> f64 {
    let off: f64 = x
        .chunks(32)
        .zip(w.chunks(32))
        .map(|(x, w)| {
            let step = x.iter().fold(0f32, |a, x| a.max(x.abs())) / 127.0;
            x.iter()
                .zip(w)
                .map(|(x, w)| {
                    let off = match format {
                        Format::BF16 if level.multiplies_pairs() => x.abs() / 512.0,
                        Format::BF16 => 0.0,
                        _ => step / 2.0,
                    };
                    f64::from(off * w.abs())
                })
                .sum::<f64>()
        })
        .sum();
    let magnitude: f64 = x.iter().zip(w).map(|(x, w)| f64::from((x * w).abs())).sum();
    // Minimum and scale parts of one product are rounded apart, so their magnitudes count and not their sum's.
    off * 1.01 + (magnitude + w.iter().map(|w| f64::from(w.abs())).sum::<f64>()) * 1e-5 + 1e-6
}

fn check(format: Format, m: usize, n: usize, k: usize) {
    let rows = stored(format, (n * 31 + k) as u64, n, k);
    let bytes = packed(format, k, &rows);
    let w = Weight::packed(&bytes, format, Packing::Tiles16, n, k).unwrap();
    check_product(format, &numbers((m * 7 + k) as u64, m * k), m, &w);
}

fn check_product(format: Format, x: &[f32], m: usize, w: &Weight) {
    let (n, k) = (w.n(), w.k());
    let mut row = vec![0.0; k];
    for level in levels() {
        let out = multiply(On { level, pool: pool(3) }, x, w);
        for j in 0..n {
            w.dequantize_row(j, &mut row);
            for i in 0..m {
                let x = &x[i * k..][..k];
                let sum: f64 = x.iter().zip(&row).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum();
                let error = (f64::from(out[i * n + j]) - sum).abs();
                let bound = bound(format, level, x, &row);
                assert!(
                    error <= bound,
                    "{format:?} {level:?} [{m},{k}]·[{n},{k}] at {i},{j}: off by {error}, allowed {bound}"
                );
            }
        }
    }
}

#[test]
fn rows_come_back_as_they_were() {
    for (format, columns) in PACKED {
        for n in [1, 15, 16, 17, 40] {
            let k = 3 * columns;
            let rows = stored(format, n as u64, n, k);
            let tiles = packed(format, k, &rows);
            let row_bytes = format.row_bytes(k).unwrap();
            let mut back = vec![0; row_bytes];
            for (i, row) in rows.chunks(row_bytes).enumerate() {
                Packing::Tiles16.row(format, k, &tiles, i, &mut back);
                assert_eq!(back, row, "{format:?} row {i} of {n}");
            }
        }
    }
}

#[test]
fn what_is_packed_is_taken_in_whole_chunks_only() {
    for format in Format::ALL {
        let columns = PACKED.iter().find(|(packed, _)| *packed == format).map(|(_, columns)| *columns);
        for k in [1, 2, 32, 64, 96, 256, 320] {
            let whole = columns.is_some_and(|columns| k % columns == 0);
            assert_eq!(Packing::Tiles16.takes(format, k), whole, "{format:?} {k}");
            assert_eq!(Packing::Tiles16.bytes(format, 17, k).is_some(), whole, "{format:?} {k}");
        }
    }
    assert_eq!(Packing::Tiles16.bytes(Format::BF16, usize::MAX, 64), None);
}

#[test]
fn every_format_with_any_number_of_rows_is_within_its_bound() {
    for (format, columns) in PACKED {
        for m in [1, 2, 3, 4, 5, 6, 7, 8, 13, 64] {
            for (n, chunks) in [(1, 1), (16, 3), (37, 2), (130, 1)] {
                check(format, m, n, chunks * columns.max(32));
            }
        }
        // More columns than are unpacked at once, the last of them fewer.
        for m in [1, 9, 13] {
            check(format, m, 18, 1536usize.next_multiple_of(columns) + columns);
        }
    }
}

/// The greatest integers by the greatest activations: no sum leaves the numbers it is added up in.
#[test]
fn the_greatest_integers_are_added_up() {
    for (format, columns) in PACKED {
        let (n, k) = (17, 2 * columns.max(256));
        let mut rows = stored(format, 1, n, k);
        for block in rows.chunks_exact_mut(format.block_bytes()) {
            match format {
                Format::BF16 => {}
                Format::Q8_0 | Format::Q4_0 => block[2..].fill(if format == Format::Q8_0 { 0x7f } else { 0xff }),
                Format::Q6_K => block[..192].fill(0xff),
                _ => block[4..].fill(0xff),
            }
        }
        let bytes = packed(format, k, &rows);
        let w = Weight::packed(&bytes, format, Packing::Tiles16, n, k).unwrap();
        for (m, x) in [1.0, -1.0].into_iter().flat_map(|x| [1, 3, 30].map(|m| (m, vec![x; m * k]))) {
            check_product(format, &x, m, &w);
        }
    }
}

proptest! {
    /// A row's bits alone, among others, and on several threads.
    #[test]
    fn a_row_has_the_same_bits_in_any_company(
        format in 0..PACKED.len(), m in 2usize..40, n in 1usize..60, columns in 1usize..1500, seed in any::<u64>()
    ) {
        let (format, chunk) = PACKED[format];
        let k = columns.next_multiple_of(chunk);
        let bytes = packed(format, k, &stored(format, seed, n, k));
        let w = Weight::packed(&bytes, format, Packing::Tiles16, n, k).unwrap();
        let x = numbers(seed ^ 5, m * k);
        for level in levels() {
            let bits = |x: &[f32], threads| {
                multiply(On { level, pool: pool(threads) }, x, &w).iter().map(|x| x.to_bits()).collect::<Vec<_>>()
            };
            let all = bits(&x, 3);
            prop_assert_eq!(&all, &bits(&x, 1));
            for i in [0, m / 2, m - 1] {
                prop_assert_eq!(&all[i * n..][..n], bits(&x[i * k..][..k], 2));
            }
        }
    }
}
