//! The largest numbers of a row, with their places.
//!
//! **Order:** larger before smaller, equals (0 and -0 are) by place, and what is no number behind all that are. So the result is
//! one and the same at every level and on any number of threads.

use super::dispatch::{Level, On, leveled};
use super::shared::Shared;
use std::cmp::Ordering;

/// Numbers that are looked at together: most of a long row has none that is large enough.
const CHUNK: usize = 64;
/// So many are kept in order while a row is gone through; where more are wanted all are ordered at once.
const KEPT_MAX: usize = 1024;

/// A number and its place.
type Ranked = (u32, f32);

/// Writes the `k` largest of each row of `x [rows, n]` to `values` and their places to `places`, `[rows, k]` each.
pub(crate) fn top_k(on: On, x: &[f32], n: usize, k: usize, values: &mut [f32], places: &mut [i32]) {
    assert!(0 < k && k <= n, "{k} of {n}");
    let rows = x.len() / n;
    assert!(values.len() == rows * k && places.len() == rows * k, "as many results as rows times k");
    let (values, places) = (Shared::new(values), Shared::new(places));
    on.pool.run(rows, &|row| {
        let mut best = Vec::new();
        of_row(on.level, &x[row * n..][..n], k, &mut best);
        let part = row * k..(row + 1) * k;
        // SAFETY: each task has its own row.
        let (values, places) = unsafe { (values.part(part.clone()), places.part(part)) };
        for ((value, place), best) in values.iter_mut().zip(places).zip(&best) {
            (*place, *value) = (best.0 as i32, best.1);
        }
    });
}

/// The `k` largest of `row` in order, or all where there are no more; `best` is overwritten.
pub(crate) fn of_row(level: Level, row: &[f32], k: usize, best: &mut Vec<Ranked>) {
    best.clear();
    let k = k.min(row.len());
    if k > KEPT_MAX {
        best.extend((0..).zip(row.iter().copied()));
        if k < best.len() {
            best.select_nth_unstable_by(k, order);
            best.truncate(k);
        }
        return best.sort_unstable_by(order);
    }
    if k > 0 {
        scan(level, row, k, best);
        // Fewer are numbers.
        let others = (0..).zip(row).filter(|(_, x)| x.is_nan());
        best.extend(others.take(k - best.len()).map(|(place, x)| (place, *x)));
    }
}

fn order(a: &Ranked, b: &Ranked) -> Ordering {
    let numbers = || b.1.partial_cmp(&a.1).unwrap_or_else(|| a.1.is_nan().cmp(&b.1.is_nan()));
    numbers().then(a.0.cmp(&b.0))
}

leveled! { fn scan(row: &[f32], k: usize, best: &mut Vec<Ranked>) = scan_lanes }

/// The `k` largest that are numbers.
#[inline(always)]
fn scan_lanes<const L: usize, const FMA: bool>(row: &[f32], k: usize, best: &mut Vec<Ranked>) {
    let mut first = 0;
    for chunk in row.chunks(CHUNK) {
        // What is not larger than the least of `k` comes behind it, equals too.
        if best.len() < k || any_above(chunk, best[k - 1].1) {
            insert(chunk, first, k, best);
        }
        first += CHUNK as u32;
    }
}

#[inline(always)]
fn any_above(chunk: &[f32], least: f32) -> bool {
    match <&[f32; CHUNK]>::try_from(chunk) {
        Ok(chunk) => chunk.iter().fold(false, |any, x| any | (*x > least)),
        Err(_) => chunk.iter().any(|x| *x > least),
    }
}

/// Puts those of `chunk`, which begins at `first`, among the `k` best where they belong there.
#[inline(never)]
fn insert(chunk: &[f32], first: u32, k: usize, best: &mut Vec<Ranked>) {
    for (place, &x) in (first..).zip(chunk) {
        let belongs = if best.len() < k { !x.is_nan() } else { x > best[k - 1].1 };
        if belongs {
            best.truncate(k - 1);
            let at = best.partition_point(|(_, other)| *other >= x);
            best.insert(at, (place, x));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::pool::pool;
    use crate::cpu::tests::{at_every_level, numbers};
    use proptest::prelude::*;

    /// Every number with its rank counted: what the operation means, word for word.
    fn reference(row: &[f32], k: usize) -> Vec<Ranked> {
        let before = |a: usize, b: usize| match (row[a].is_nan(), row[b].is_nan()) {
            (false, false) => row[a] > row[b] || (row[a] == row[b] && a < b),
            (true, true) => a < b,
            (nan, _) => !nan,
        };
        let mut ranked: Vec<usize> = (0..row.len()).collect();
        ranked.sort_by_key(|&i| (0..row.len()).filter(|&other| other != i && before(other, i)).count());
        ranked.iter().take(k).map(|&i| (i as u32, row[i])).collect()
    }

    fn bits(ranked: &[Ranked]) -> Vec<(u32, u32)> {
        ranked.iter().map(|(place, x)| (*place, x.to_bits())).collect()
    }

    fn check(row: &[f32], k: usize) {
        let want = bits(&reference(row, k));
        let mut best = vec![(7, 7.0)];
        for level in Level::available() {
            of_row(level, row, k, &mut best);
            assert_eq!(bits(&best), want, "{k} of {row:?} at {level:?}");
        }
    }

    fn number() -> impl Strategy<Value = f32> {
        const SPECIAL: [f32; 8] = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, f32::MAX, 1e-40];
        prop_oneof![4 => (-5i8..5).prop_map(f32::from), 4 => -9.0f32..9.0, 1 => proptest::sample::select(&SPECIAL[..])]
    }

    proptest! {
        #[test]
        fn the_largest_are_found_in_order(row in proptest::collection::vec(number(), 0..300), k in 0usize..310) {
            check(&row, k);
        }

        #[test]
        fn of_rows_with_few_numbers_too(mut row in proptest::collection::vec(number(), 1..200), k in 1usize..40, keep in 0usize..9) {
            row.iter_mut().skip(keep).for_each(|x| *x = f32::NAN);
            check(&row, k);
            let by = keep.min(row.len() - 1);
            row.rotate_left(by);
            check(&row, k);
        }
    }

    #[test]
    fn many_of_many_are_the_few_of_all() {
        let row = numbers(3, 5000);
        let mut all = Vec::new();
        of_row(Level::Portable, &row, row.len(), &mut all);
        assert!(all.is_sorted_by(|a, b| order(a, b) == Ordering::Less) && all.len() == row.len());
        for k in [1, 40, KEPT_MAX, KEPT_MAX + 1, 4999] {
            let mut best = Vec::new();
            of_row(Level::best(), &row, k, &mut best);
            assert_eq!(best, all[..k], "{k}");
        }
    }

    #[test]
    fn rows_are_each_their_own_on_any_number_of_threads() {
        let (rows, n, k) = (9, 321, 7);
        let x = numbers(5, rows * n);
        for threads in [1, 3] {
            at_every_level(threads, |on| {
                let (mut values, mut places) = (vec![0.0; rows * k], vec![0; rows * k]);
                top_k(on, &x, n, k, &mut values, &mut places);
                for (row, (values, places)) in values.chunks(k).zip(places.chunks(k)).enumerate() {
                    let want = reference(&x[row * n..][..n], k);
                    let got = places.iter().map(|&place| place as u32).zip(values.iter().copied());
                    assert!(got.eq(want), "row {row}");
                }
            });
        }
        top_k(On { level: Level::Portable, pool: pool() }, &[], 5, 2, &mut [], &mut []);
    }
}
