//! Log probabilities: the log-softmax of the raw logits, before temperature, penalties and bias.

/// Of one generated token.
#[derive(Clone, Debug, PartialEq)]
pub struct Logprobs {
    /// Of the token itself.
    pub chosen: f32,
    /// The likeliest tokens, best first, equals by id.
    pub top: Vec<(u32, f32)>,
}

/// What an impossible token has: JSON knows no infinity.
const LOWEST: f32 = -9999.0;

/// Log probabilities of token `id` and of the `top` likeliest.
pub fn logprobs(logits: &[f32], id: u32, top: usize) -> Logprobs {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().filter(|l| !l.is_nan()).map(|&l| f64::from((l - max).exp())).sum();
    let log_sum = f64::from(max) + sum.ln();
    let of = |logit: f32| ((f64::from(logit) - log_sum) as f32).max(LOWEST);
    let chosen = logits.get(id as usize).map_or(LOWEST, |&l| of(l));
    Logprobs { chosen, top: best(logits, top).into_iter().map(|(id, l)| (id, of(l))).collect() }
}

/// The `n` highest above minus infinity with their ids.
fn best(logits: &[f32], n: usize) -> Vec<(u32, f32)> {
    let mut best = Vec::with_capacity(n);
    kernels::top_k_of_row(logits, n, &mut best);
    best.retain(|&(_, logit)| logit > f32::NEG_INFINITY);
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn equals_are_ordered_by_id_and_values_are_a_log_softmax() {
        let found = logprobs(&[0.0, 2.0, 0.0, 2.0], 2, 3);
        let norm = (2.0 + 2.0 * 2f32.exp()).ln();
        assert_eq!(found.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 3, 0]);
        assert!((found.chosen + norm).abs() < 1e-6 && (found.top[0].1 - (2.0 - norm)).abs() < 1e-6);
        let found = logprobs(&[f32::NAN, f32::NEG_INFINITY, 1.0, f32::NAN], 2, 3);
        assert_eq!(found, Logprobs { chosen: 0.0, top: vec![(2, 0.0)] }, "what cannot come is not among the likeliest");
    }

    proptest! {
        #[test]
        fn probabilities_sum_to_one_and_top_is_sorted(logits in proptest::collection::vec(-30.0f32..30.0, 1..60), k in 0usize..20) {
            let all = logprobs(&logits, 0, logits.len());
            let sum: f64 = all.top.iter().map(|t| f64::from(t.1).exp()).sum();
            prop_assert!((sum - 1.0).abs() < 1e-4, "{}", sum);
            let some = logprobs(&logits, 0, k);
            prop_assert_eq!(&some.top[..], &all.top[..k.min(logits.len())]);
            prop_assert!(all.top.windows(2).all(|w| w[0].1 >= w[1].1));
        }
    }
}
