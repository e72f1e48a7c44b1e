use super::{at_every_level, numbers};
use crate::cpu::activations::Wanted;
use crate::cpu::activations::{Activations, GROUPS};
use crate::format::BLOCK;

#[test]
fn activations_are_within_half_a_step_and_their_sums_are_exact() {
    let (m, k) = (19, 96);
    let x = numbers(3, m * k);
    at_every_level(2, |on| {
        let mut rows = 0;
        for panel in Activations::new(on, &x, k, Wanted { width: 4, zero: 8, unit: 32 }).panels() {
            assert_eq!(panel.row, rows);
            rows += panel.rows;
            let x = &x[panel.row * k..rows * k];
            for (at, x) in x.chunks(BLOCK).enumerate() {
                let (row, block) = (at / (k / BLOCK), at % (k / BLOCK));
                let four = |g| panel.fours[(block * GROUPS + g) * panel.rows + row];
                let q: Vec<i8> = (0..GROUPS).flat_map(four).collect();
                let at = block * panel.rows + row;
                let total: i32 = q.iter().map(|q| i32::from(*q)).sum();
                assert_eq!(panel.start[at], -8 * total);
                assert_eq!(panel.sum[at], panel.d[at] * total as f32);
                assert!(q.iter().any(|q| q.abs() == 127), "the largest is 127 steps");
                for (x, q) in x.iter().zip(q) {
                    let error = (x - panel.d[at] * f32::from(q)).abs();
                    assert!(error <= panel.d[at] * 0.5001, "{x} became {q}");
                }
            }
        }
        assert_eq!(rows, m);
    });
}

/// What a processor's own code makes of activations are the bits of plain code, numbers that are none and tails among them.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::*;
    use crate::cpu::activations::{Pairs, Panel, rounded_pair};
    use crate::cpu::dispatch::{Level, On};
    use crate::cpu::tests::pool;
    use proptest::prelude::*;

    /// Of every panel what plain code makes of it, at every level; the activations have the memory of a larger call that had no numbers.
    fn check_quantised(x: &[f32], k: usize, wanted: Wanted) {
        let plain = Activations::new(On { level: Level::Portable, pool: pool(2) }, x, k, wanted);
        for level in Level::available() {
            let on = On { level, pool: pool(2) };
            let mut ours = Activations::default();
            ours.fill(on, &vec![f32::NAN; 2 * x.len()], k, Wanted { unit: 16, ..wanted });
            ours.fill(on, x, k, wanted);
            for (ours, plain) in ours.panels().zip(plain.panels()) {
                assert_eq!(
                    (ours.row, ours.fours, ours.start),
                    (plain.row, plain.fours, plain.start),
                    "{level:?} {wanted:?}"
                );
                assert_eq!((ours.d, ours.sum), (plain.d, plain.sum));
            }
        }
    }

    #[test]
    fn panels_of_any_width_are_quantised_and_rounded_as_by_plain_code() {
        let x: Vec<f32> = (0..8 * 96).map(|i| (i as f32 * 0.37).sin() * (i % 11) as f32).collect();
        for rows in 1..=8 {
            for (blocks, unit) in (1..=3).flat_map(|blocks| [(blocks, 16), (blocks, 32)]) {
                let k = blocks * BLOCK;
                check_quantised(&x[..rows * k], k, Wanted { width: rows, zero: 32, unit });
            }
            for pairs in 1..=33 {
                let k = 2 * pairs;
                for level in Level::available() {
                    let mut rounded = Pairs::default();
                    let on = On { level, pool: pool(2) };
                    rounded.fill(on, &[f32::NAN; 8 * 96], 96, rows);
                    rounded.fill(on, &x[..rows * k], k, rows);
                    let (_, _, pairs) = rounded.panels().next().unwrap();
                    let plain = |at: usize| &x[at % rows * k + at / rows * 2..];
                    let plain: Vec<u32> =
                        (0..rows * k / 2).map(|at| rounded_pair(&[plain(at)[0], plain(at)[1]])).collect();
                    assert_eq!(pairs, plain, "{level:?}, {rows} rows of {k}");
                }
            }
        }
    }

    /// Numbers of which few are odd: ends, ties between two integers, ties between two of 16 bits, what is no number.
    fn numbers() -> impl Strategy<Value = Vec<f32>> {
        let plain = prop_oneof![4 => -4f32..4.0, 1 => (-127i32..127).prop_map(|n| n as f32 + 0.5), 1 => Just(127.0)];
        let halfway = any::<u16>().prop_map(|upper| f32::from_bits(u32::from(upper) << 16 | 0x8000));
        let ends = [
            0.0,
            -0.0,
            f32::NAN,
            f32::from_bits(0x7f80_0001),
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::MAX,
            1e-40,
            f32::MIN_POSITIVE,
        ];
        let odd = prop_oneof![any::<u32>().prop_map(f32::from_bits), halfway, prop::sample::select(ends.to_vec())];
        let placed = prop::collection::vec((0usize..997, odd), 0..6);
        (prop::collection::vec(plain, 997), placed).prop_map(|(mut numbers, placed)| {
            placed.into_iter().for_each(|(at, odd)| numbers[at] = odd);
            numbers
        })
    }

    proptest! {
        #[test]
        fn quantises_as_plain_code_does(
            (m, blocks, width) in (1usize..14, prop_oneof![1usize..6, 140usize..150], 1usize..9),
            (zero, unit) in (prop::sample::select(&[0, 8, 32, 128][..]), prop::sample::select(&[16usize, 32][..])),
            some in numbers(),
        ) {
            let k = blocks * BLOCK;
            let x: Vec<f32> = (0..m * k).map(|i| some[i % some.len()]).collect();
            let of = |level| Activations::new(On { level, pool: pool(2) }, &x, k, Wanted { width, zero, unit });
            let plain = of(Level::Portable);
            for level in Level::available() {
                for (ours, plain) in of(level).panels().zip(plain.panels()) {
                    prop_assert_eq!((ours.row, ours.rows), (plain.row, plain.rows));
                    for at in 0..plain.d.len() {
                        if plain.d[at].is_nan() {
                            // Whatever its integers are.
                            prop_assert!(ours.d[at].is_nan());
                            continue;
                        }
                        let (block, row) = (at / plain.rows, at % plain.rows);
                        let fours = |panel: &Panel| (0..GROUPS).map(|g| panel.fours[(block * GROUPS + g) * panel.rows + row]).collect::<Vec<_>>();
                        let units = BLOCK / unit;
                        let start = |panel: &Panel| (0..units).map(|u| panel.start[(block * units + u) * panel.rows + row]).collect::<Vec<_>>();
                        prop_assert_eq!(fours(&ours), fours(&plain));
                        prop_assert_eq!(start(&ours), start(&plain));
                        prop_assert_eq!(ours.d[at].to_bits(), plain.d[at].to_bits());
                        prop_assert_eq!(ours.sum[at].to_bits(), plain.sum[at].to_bits());
                    }
                }
            }
        }

        #[test]
        fn rounds_as_plain_code_does((m, pairs, width) in (1usize..14, prop_oneof![1usize..70, 2200usize..2210], 1usize..9), some in numbers()) {
            let k = 2 * pairs;
            let x: Vec<f32> = (0..m * k).map(|i| some[i % some.len()]).collect();
            for level in Level::available() {
                let mut rounded = Pairs::default();
                rounded.fill(On { level, pool: pool(2) }, &x, k, width);
                for (row, rows, pairs) in rounded.panels() {
                    for (at, pair) in pairs.iter().enumerate() {
                        let x = &x[(row + at % rows) * k + at / rows * 2..];
                        prop_assert_eq!(*pair, rounded_pair(&[x[0], x[1]]));
                    }
                }
            }
        }
    }
}
