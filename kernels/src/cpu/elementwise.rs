//! The small operations between matrices, done row by row in place.
//!
//! A row is independent of all others; rows are dealt out to threads where there are enough elements to be worth it.

use super::dispatch::{On, leveled};
use super::lanes::{add as add_product, exp, fold};
use super::shared::Shared;

/// Elements of a task: fewer are done before another thread would have looked.
const ELEMENTS_PER_TASK: usize = 8192;

/// Each row of `x [rows, n]` becomes `x / sqrt(mean(x²) + eps) · weight [n]`.
pub(crate) fn rms_norm(on: On, x: &mut [f32], weight: &[f32], eps: f32) {
    over_rows(on, x, weight.len(), &|_, x| rms_norm_rows(on.level, x, weight, eps));
}

/// `out` becomes [`rms_norm`] of `x [rows, n]`.
pub(crate) fn rms_norm_of(on: On, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let n = weight.len();
    over_rows(on, out, n, &|first, out| {
        out.copy_from_slice(&x[first * n..][..out.len()]);
        rms_norm_rows(on.level, out, weight, eps);
    });
}

/// In each head of `x [rows, heads, dim]`, elements `i` and `i + pairs` turn by the angle that `cos` and
/// `sin [rows, pairs]` give.
pub(crate) fn rotate(on: On, x: &mut [f32], (heads, dim): (usize, usize), cos: &[f32], sin: &[f32], pairs: usize) {
    if pairs == 0 {
        return;
    }
    over_rows(on, x, heads * dim, &|first, x| {
        rotate_rows(on.level, x, (heads, dim), &cos[first * pairs..], &sin[first * pairs..], pairs);
    });
}

/// `gate [rows, n]` becomes `silu(gate) · up`.
pub(crate) fn silu_mul(on: On, gate: &mut [f32], up: &[f32], n: usize) {
    over_rows(on, gate, n, &|first, gate| {
        silu_mul_rows(on.level, gate, &up[first * n..][..gate.len()]);
    });
}

/// `gate [rows, n]` becomes `gelu(gate) · up`, by the approximation with a tanh.
pub(crate) fn gelu_mul(on: On, gate: &mut [f32], up: &[f32], n: usize) {
    over_rows(on, gate, n, &|first, gate| {
        gelu_mul_rows(on.level, gate, &up[first * n..][..gate.len()]);
    });
}

/// Each row of `x [rows, n]` becomes itself and `bias [n]`.
pub(crate) fn add_bias(on: On, x: &mut [f32], bias: &[f32]) {
    over_rows(on, x, bias.len(), &|_, x| x.chunks_exact_mut(bias.len()).for_each(|x| add_rows(on.level, x, bias)));
}

/// `x [rows, n]` becomes `y + x`.
pub(crate) fn add(on: On, x: &mut [f32], y: &[f32], n: usize) {
    over_rows(on, x, n, &|first, x| add_rows(on.level, x, &y[first * n..][..x.len()]));
}

/// Runs `work(index of the first row, rows)` over all of `x`, in tasks of whole rows of `width` elements.
fn over_rows(on: On, x: &mut [f32], width: usize, work: &(dyn Fn(usize, &mut [f32]) + Sync)) {
    if x.is_empty() {
        return;
    }
    let rows = x.len() / width;
    let rows_per_task = (ELEMENTS_PER_TASK / width).max(1);
    if rows <= rows_per_task {
        return work(0, x);
    }
    let x = Shared::new(x);
    on.pool.run(rows.div_ceil(rows_per_task), &|task| {
        let first = task * rows_per_task;
        let end = rows.min(first + rows_per_task);
        // SAFETY: each task has its own rows.
        work(first, unsafe { x.part(first * width..end * width) });
    });
}

leveled! { fn rms_norm_rows(x: &mut [f32], weight: &[f32], eps: f32) = rms_norm_lanes }
leveled! {
    fn rotate_rows(x: &mut [f32], heads: (usize, usize), cos: &[f32], sin: &[f32], pairs: usize) = rotate_lanes
}
leveled! { pub(super) fn silu_mul_rows(gate: &mut [f32], up: &[f32]) = silu_mul_lanes }
leveled! { pub(super) fn gelu_mul_rows(gate: &mut [f32], up: &[f32]) = gelu_mul_lanes }
leveled! { pub(super) fn add_rows(x: &mut [f32], y: &[f32]) = add_lanes }

#[inline(always)]
fn rms_norm_lanes<const L: usize, const FMA: bool>(x: &mut [f32], weight: &[f32], eps: f32) {
    for x in x.chunks_exact_mut(weight.len()) {
        let mut squares = [0.0; L];
        let (whole, rest) = x.as_chunks::<L>();
        for chunk in whole {
            for l in 0..L {
                squares[l] = add_product::<FMA>(chunk[l], chunk[l], squares[l]);
            }
        }
        for (sum, x) in squares.iter_mut().zip(rest) {
            *sum = add_product::<FMA>(*x, *x, *sum);
        }
        let mean = fold(squares) / weight.len() as f32;
        let scale = 1.0 / (mean + eps).sqrt();
        for (x, weight) in x.iter_mut().zip(weight) {
            *x = *x * scale * weight;
        }
    }
}

#[inline(always)]
fn rotate_lanes<const L: usize, const FMA: bool>(
    x: &mut [f32],
    (heads, dim): (usize, usize),
    cos: &[f32],
    sin: &[f32],
    pairs: usize,
) {
    let turns = cos.chunks_exact(pairs).zip(sin.chunks_exact(pairs));
    for (x, (cos, sin)) in x.chunks_exact_mut(heads * dim).zip(turns) {
        for head in x.chunks_exact_mut(dim) {
            let (low, high) = head[..2 * pairs].split_at_mut(pairs);
            for i in 0..pairs {
                let (a, b) = (low[i], high[i]);
                low[i] = add_product::<FMA>(a, cos[i], -b * sin[i]);
                high[i] = add_product::<FMA>(b, cos[i], a * sin[i]);
            }
        }
    }
}

#[inline(always)]
fn silu_mul_lanes<const L: usize, const FMA: bool>(gate: &mut [f32], up: &[f32]) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate *= logistic::<FMA>(*gate) * up;
    }
}

#[inline(always)]
fn add_lanes<const L: usize, const FMA: bool>(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

#[inline(always)]
fn gelu_mul_lanes<const L: usize, const FMA: bool>(gate: &mut [f32], up: &[f32]) {
    /// Twice the square root of 2/π: `(1 + tanh(x)) / 2` is the logistic function of `2 x`.
    const TWICE: f32 = 1.595_769;
    for (gate, up) in gate.iter_mut().zip(up) {
        let cubic = add_product::<FMA>(0.044_715 * *gate * *gate, *gate, *gate);
        *gate *= logistic::<FMA>(TWICE * cubic) * up;
    }
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
fn logistic<const FMA: bool>(x: f32) -> f32 {
    // The exponential of a negative number cannot overflow, whichever sign `x` has.
    let e = exp::<FMA>(-x.abs());
    let share = if x < 0.0 { e } else { 1.0 };
    share / (1.0 + e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::dispatch::Level;
    use crate::cpu::pool::pool;

    fn wave(count: usize, seed: f32) -> Vec<f32> {
        (0..count).map(|i| ((i as f32 + seed) * 0.731).sin() * 4.0).collect()
    }

    fn check(got: &[f32], want: impl Iterator<Item = f64>, what: &str) {
        for (i, (&got, want)) in got.iter().zip(want).enumerate() {
            assert!((f64::from(got) - want).abs() < 4e-6, "{what}: element {i} is {got}, not {want}");
        }
    }

    /// Every instruction set, rows of every length around the vectors', few rows and rows enough for threads.
    fn everywhere(test: impl Fn(On, usize, usize)) {
        for level in Level::available() {
            for width in (2..70).step_by(2).chain([576]) {
                test(On { level, pool: pool() }, 3, width);
            }
            test(On { level, pool: pool() }, 101, 578);
        }
    }

    #[test]
    fn rms_norm_divides_by_the_root_mean_square() {
        everywhere(|on, rows, n| {
            let (x, weight) = (wave(rows * n, 0.0), wave(n, 5.0));
            let mut got = x.clone();
            rms_norm(on, &mut got, &weight, 1e-5);
            let want = x.chunks(n).flat_map(|row| {
                let mean = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n as f64;
                let scale = 1.0 / (mean + 1e-5).sqrt();
                row.iter().zip(&weight).map(move |(&x, &w)| f64::from(x) * scale * f64::from(w))
            });
            check(&got, want, "rms_norm");
        });
    }

    #[test]
    fn rotate_turns_each_pair_by_its_rows_angle() {
        everywhere(|on, rows, dim| {
            let heads = 3;
            for pairs in [dim / 2, dim / 4] {
                let x = wave(rows * heads * dim, 0.0);
                let (cos, sin) = (wave(rows * pairs, 1.0), wave(rows * pairs, 2.0));
                let mut got = x.clone();
                rotate(on, &mut got, (heads, dim), &cos, &sin, pairs);
                let want = (0..x.len()).map(|at| {
                    let (row, i) = (at / (heads * dim), at % dim);
                    if i >= 2 * pairs {
                        return f64::from(x[at]);
                    }
                    let turn = row * pairs + i % pairs.max(1);
                    let (c, s) = (f64::from(cos[turn]), f64::from(sin[turn]));
                    let (partner, sign) = if i < pairs { (at + pairs, -1.0) } else { (at - pairs, 1.0) };
                    f64::from(x[at]) * c + sign * f64::from(x[partner]) * s
                });
                check(&got, want, "rotate");
            }
        });
    }

    #[test]
    fn gelu_mul_gates() {
        everywhere(|on, rows, n| {
            let (gate, up) = (wave(rows * n, 0.0), wave(rows * n, 9.0));
            let mut got = gate.clone();
            gelu_mul(on, &mut got, &up, n);
            let want = gate.iter().zip(&up).map(|(&g, &u)| {
                let g = f64::from(g);
                let tanh = (std::f64::consts::FRAC_2_PI.sqrt() * (g + 0.044715 * g.powi(3))).tanh();
                0.5 * g * (1.0 + tanh) * f64::from(u)
            });
            check(&got, want, "gelu_mul");
        });
    }

    #[test]
    fn silu_mul_gates() {
        everywhere(|on, rows, n| {
            let (gate, up) = (wave(rows * n, 0.0), wave(rows * n, 9.0));
            let mut got = gate.clone();
            silu_mul(on, &mut got, &up, n);
            let want = gate.iter().zip(&up).map(|(&g, &u)| {
                let g = f64::from(g);
                g / (1.0 + (-g).exp()) * f64::from(u)
            });
            check(&got, want, "silu_mul");
        });
    }

    #[test]
    fn silu_of_large_numbers_is_the_number_or_nothing() {
        let mut gate = [200.0, -200.0, 0.0, f32::MAX, f32::MIN, f32::NAN];
        silu_mul(On::best(), &mut gate, &[1.0, 1.0, 5.0, 0.5, 1.0, 1.0], 6);
        assert_eq!(gate[..5], [200.0, 0.0, 0.0, f32::MAX * 0.5, 0.0]);
        assert!(gate[5].is_nan());
    }

    #[test]
    fn a_row_alone_has_the_same_bits() {
        everywhere(|on, rows, n| {
            let (gate, up) = (wave(rows * n, 0.0), wave(rows * n, 9.0));
            let mut together = gate.clone();
            silu_mul(on, &mut together, &up, n);
            rms_norm(on, &mut together, &up[..n], 1e-5);
            for row in (0..rows).map(|row| row * n..(row + 1) * n) {
                let mut alone = gate[row.clone()].to_vec();
                silu_mul(on, &mut alone, &up[row.clone()], n);
                rms_norm(on, &mut alone, &up[..n], 1e-5);
                assert_eq!(alone, together[row]);
            }
        });
    }
}
