use super::{at_every_level, numbers, pool};
use crate::Format;
use crate::cpu::dispatch::{Level, On};
use crate::cpu::linear::linears;
use crate::cpu::weight::Weight;
use crate::format::BLOCK;
use proptest::prelude::*;

/// `[n, k]` of numbers in `format`.
fn stored(format: Format, seed: u64, n: usize, k: usize) -> Vec<u8> {
    let row_bytes = format.row_bytes(k).unwrap();
    let mut bytes = vec![0; n * row_bytes];
    let values = numbers(seed, n * k);
    for (row, out) in values.chunks(k).zip(bytes.chunks_mut(row_bytes)) {
        format.quantize_row(row, out);
    }
    bytes
}

fn multiply(on: On, x: &[f32], w: &Weight) -> Vec<f32> {
    let mut out = vec![f32::NAN; x.len() / w.k() * w.n()];
    linears(on, x, [(w, &mut out)]);
    out
}

#[test]
fn several_weights_at_once_give_the_bits_of_one_by_one() {
    let (k, m) = (96, 5);
    let shapes = [(Format::Q4_1, 50), (Format::Q8_0, 16), (Format::F16, 33), (Format::Q4_0, 7)];
    let bytes = shapes.map(|(format, n)| stored(format, n as u64, n, k));
    let x = numbers(11, m * k);
    at_every_level(3, |on| {
        let weight = |i: usize| Weight::new(&bytes[i], shapes[i].0, shapes[i].1, k).unwrap();
        let weights: [Weight; 4] = std::array::from_fn(weight);
        let mut outs = shapes.map(|(_, n)| vec![f32::NAN; m * n]);
        let [a, b, c, d] = &mut outs;
        linears(on, &x, [(&weights[0], a), (&weights[1], b), (&weights[2], c), (&weights[3], d)]);
        for (w, out) in weights.iter().zip(&outs) {
            assert_eq!(multiply(on, &x, w), *out, "{:?} {:?}", on.level, w.format());
        }
    });
}

/// The result in float64, and how far off a kernel may be.
fn expected(format: Format, x: &[f32], w: &[f32]) -> (f64, f64) {
    let products = || x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
    let sum: f64 = products().sum();
    let magnitude: f64 = products().map(f64::abs).sum();
    // Every addition in f32 rounds by at most half a unit in the last place of what is summed.
    let rounding = magnitude * f64::from(f32::EPSILON) * (x.len() as f64 / 8.0 + 8.0);
    let quantized = match format {
        Format::F32 | Format::F16 | Format::BF16 => 0.0,
        // Each activation is off by at most half a step of its block.
        _ => x
            .chunks(BLOCK)
            .zip(w.chunks(BLOCK))
            .map(|(x, w)| {
                let step = x.iter().fold(0f32, |a, x| a.max(x.abs())) / 127.0;
                let weights: f64 = w.iter().map(|w| f64::from(w.abs())).sum();
                f64::from(step) * 0.5 * weights
            })
            .sum(),
    };
    // A little more, because minimum and scale parts of one product are rounded apart.
    (sum, quantized * 1.01 + rounding * 4.0 + 1e-6)
}

fn check(format: Format, m: usize, n: usize, k: usize) {
    let bytes = stored(format, (n * 31 + k) as u64, n, k);
    let w = Weight::new(&bytes, format, n, k).unwrap();
    let x = numbers((m * 7 + k) as u64, m * k);
    let mut row = vec![0.0; k];
    at_every_level(3, |on| {
        let out = multiply(on, &x, &w);
        for j in 0..n {
            format.dequantize_row(w.row(j), &mut row);
            for i in 0..m {
                let (sum, bound) = expected(format, &x[i * k..][..k], &row);
                let error = (f64::from(out[i * n + j]) - sum).abs();
                assert!(
                    error <= bound,
                    "{format:?} {:?} [{m},{k}]·[{n},{k}] at {i},{j}: {} is not {sum} ± {bound}",
                    on.level,
                    out[i * n + j],
                );
            }
        }
    });
}

#[test]
fn every_format_with_any_number_of_rows_is_within_its_bound() {
    for format in Format::WRITTEN {
        for m in [1, 2, 3, 7, 16, 17, 64] {
            for (n, k) in [(1, 32), (16, 64), (37, 96), (50, 288), (130, 32)] {
                check(format, m, n, k);
            }
        }
    }
}

#[test]
fn rows_of_floats_need_not_fill_a_vector() {
    for format in [Format::F32, Format::F16, Format::BF16] {
        for k in [1, 2, 7, 15, 17, 33, 100] {
            check(format, 1, 5, k);
            check(format, 6, 9, k);
        }
    }
}

#[test]
fn the_lowest_stored_byte_is_multiplied_exactly() {
    // -128 is not written by quantisers, but nothing forbids it in a file.
    let k = BLOCK;
    let mut bytes = half::f16::ONE.to_le_bytes().to_vec();
    bytes.extend([0x80; BLOCK]);
    let w = Weight::new(&bytes, Format::Q8_0, 1, k).unwrap();
    at_every_level(1, |on| {
        assert_eq!(multiply(on, &[127.0; BLOCK], &w), [-128.0 * 127.0 * 32.0]);
        assert_eq!(multiply(on, &[-127.0; BLOCK], &w), [128.0 * 127.0 * 32.0]);
    });
}

#[test]
fn unaligned_floats_are_read_too() {
    let (n, k) = (3, 20);
    for format in [Format::F32, Format::F16, Format::BF16] {
        let bytes = stored(format, 5, n, k);
        let mut shifted = vec![0];
        shifted.extend(&bytes);
        let x = numbers(6, k);
        at_every_level(1, |on| {
            let straight = multiply(on, &x, &Weight::new(&bytes, format, n, k).unwrap());
            let odd = multiply(on, &x, &Weight::new(&shifted[1..], format, n, k).unwrap());
            assert_eq!(straight, odd);
        });
    }
}

#[test]
fn what_is_no_number_is_not_lost() {
    for format in Format::WRITTEN {
        let bytes = stored(format, 1, 20, 64);
        let w = Weight::new(&bytes, format, 20, 64).unwrap();
        let mut x = numbers(2, 128);
        x[70] = f32::NAN;
        at_every_level(1, |on| {
            let out = multiply(on, &x, &w);
            assert!(out[..20].iter().all(|x| x.is_finite()));
            assert!(out[20..].iter().all(|x| x.is_nan()), "{format:?}");
        });
    }
}

#[test]
fn zeros_give_zero() {
    for format in Format::WRITTEN {
        let bytes = stored(format, 1, 20, 64);
        let w = Weight::new(&bytes, format, 20, 64).unwrap();
        at_every_level(1, |on| {
            assert!(multiply(on, &[0.0; 192], &w).iter().all(|x| *x == 0.0));
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A row has the same bits alone, among others, and on any number of threads.
    #[test]
    fn a_row_does_not_notice_its_company(
        format in proptest::sample::select(&Format::WRITTEN[..]),
        m in 1usize..40,
        n in 1usize..90,
        blocks in 1usize..7,
        threads in 1usize..5,
        seed in 0u64..1000,
    ) {
        let k = blocks * BLOCK;
        let bytes = stored(format, seed, n, k);
        let w = Weight::new(&bytes, format, n, k).unwrap();
        let x = numbers(seed + 1, m * k);
        let (one, many) = (pool(1), pool(threads));
        for level in Level::available() {
            let together = multiply(On { level, pool: many }, &x, &w);
            for (x, together) in x.chunks(k).zip(together.chunks(n)) {
                let alone = multiply(On { level, pool: one }, x, &w);
                let bits = |out: &[f32]| out.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                prop_assert_eq!(bits(together), bits(&alone), "{:?}", level);
            }
        }
    }
}
