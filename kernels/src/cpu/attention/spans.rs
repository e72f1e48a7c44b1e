//! Online softmax: what a query has made of the positions so far, and what another span of them adds.

use crate::BLOCK_TOKENS;
use crate::cpu::lanes::exp;
use crate::cpu::vector::Vector;
use std::ops::Range;

/// `[values so far (dim), greatest score, sum of the exponentials against it]` of one query.
pub(super) struct Row<'a>(pub &'a mut [f32]);

impl Row<'_> {
    /// How long it is.
    pub fn floats(dim: usize) -> usize {
        dim + 2
    }

    /// Nothing seen, of values that are 0.
    pub fn empty(self) {
        self.0.fill(0.0);
        if let [.., greatest, _] = self.0 {
            *greatest = f32::NEG_INFINITY;
        }
    }

    /// Greatest and sum, and the values.
    #[inline(always)]
    pub fn parts(row: &[f32]) -> ((f32, f32), &[f32]) {
        match row {
            [values @ .., greatest, sum] => ((*greatest, *sum), values),
            _ => ((f32::NEG_INFINITY, 0.0), &[]),
        }
    }

    /// Writes the weighed mean.
    #[inline(always)]
    pub fn finish(self, out: &mut [f32]) {
        let ((_, sum), values) = Self::parts(self.0);
        for (out, value) in out.iter_mut().zip(values) {
            *out = value / sum;
        }
    }
}

/// Adds another span to `row`: its greatest score, its sum, and its values.
///
/// What counts nothing is not added, and the first that counts is taken as it is: so it makes no difference, not even to the sign of
/// a zero, whether spans are added to an empty row or to one another.
#[inline(always)]
pub(super) fn merge<V: Vector>(row: &mut [f32], (greatest, sum): (f32, f32), values: &[f32]) {
    let [before_values @ .., before_greatest, before_sum] = row else { return };
    if sum == 0.0 {
        return;
    }
    if *before_sum == 0.0 {
        before_values.copy_from_slice(values);
        (*before_greatest, *before_sum) = (greatest, sum);
        return;
    }
    let most = before_greatest.max(greatest);
    let against = finite(most);
    let power = |x| if V::FMA { exp::<true>(x) } else { exp::<false>(x) };
    let (before, new) = (power(*before_greatest - against), power(greatest - against));
    for (total, value) in before_values.iter_mut().zip(values) {
        *total = V::add_product_of_one(*total * before, *value, new);
    }
    *before_sum = V::add_product_of_one(*before_sum * before, sum, new);
    *before_greatest = most;
}

/// Where nothing counts, the difference of two infinities would be no number.
#[inline(always)]
fn finite(greatest: f32) -> f32 {
    if greatest == f32::NEG_INFINITY { 0.0 } else { greatest }
}

/// Makes of the scores `seen` their exponentials against the greatest, of the others 0, and gives greatest and sum.
///
/// A score's lane follows from its position alone, so that neither sum nor greatest depend on where a tile begins.
#[inline(always)]
pub(super) fn softmax<V: Vector>(scores: &mut [f32], seen: Range<usize>) -> (f32, f32) {
    let (before, scores) = scores.split_at_mut(seen.start / V::LANES * V::LANES);
    before.fill(0.0);
    let seen = seen.start - before.len()..seen.end - before.len();
    let (scores, beyond) = scores.split_at_mut(seen.end.next_multiple_of(V::LANES));
    beyond.fill(0.0);
    scores[..seen.start].fill(f32::NEG_INFINITY);
    scores[seen.end..].fill(f32::NEG_INFINITY);
    let mut greatest = V::splat(f32::NEG_INFINITY);
    for scores in scores.chunks_exact(V::LANES) {
        greatest = greatest.max(V::load(scores));
    }
    let mut lanes = [f32::NEG_INFINITY; BLOCK_TOKENS];
    greatest.store(&mut lanes);
    let mut most = lanes[0];
    for lane in lanes {
        most = most.max(lane);
    }
    let against = finite(most);
    for score in scores.iter_mut() {
        *score = if V::FMA { exp::<true>(*score - against) } else { exp::<false>(*score - against) };
    }
    let mut sum = V::splat(0.0);
    for scores in scores.chunks_exact(V::LANES) {
        sum = sum.add_product(V::splat(1.0), V::load(scores));
    }
    (most, sum.fold())
}
