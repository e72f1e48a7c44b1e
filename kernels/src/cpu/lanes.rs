//! Arithmetic that is the same in every lane and at every place it is used.

/// `a * b + c`, rounded once where the instruction set has it.
#[inline(always)]
pub(super) fn add<const FMA: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FMA { a.mul_add(b, c) } else { a * b + c }
}

/// The sum of the lanes, halves first.
#[inline(always)]
pub(super) fn fold<const L: usize>(mut lanes: [f32; L]) -> f32 {
    let mut half = L / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] += lanes[l + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// Below it [`exp`] is 0: the result would no longer be a normal number.
const LEAST: f32 = -87.0;
/// Added to it, a small number is rounded to an integer that stands in the lowest bits.
const ROUND: f32 = 12_582_912.0;

/// e to the power of `x <= 0`, within two units in the last place; 0 below [`LEAST`].
#[inline(always)]
pub(super) fn exp<const FMA: bool>(x: f32) -> f32 {
    /// The natural logarithm of 2 in two parts, the first with few bits.
    const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    const FACTORIALS: [f32; 7] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 1.0 / 2.0, 1.0];
    let rounded = add::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = add::<FMA>(n, -LN2[1], add::<FMA>(n, -LN2[0], x));
    let mut sum = FACTORIALS[0];
    for factorial in &FACTORIALS[1..] {
        sum = add::<FMA>(sum, r, *factorial);
    }
    sum = add::<FMA>(sum, r, 1.0);
    let power = f32::from_bits((rounded.to_bits() << 23).wrapping_add(1f32.to_bits()));
    // Written so that what is no number passes.
    if x < LEAST { 0.0 } else { sum * power }
}
