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
