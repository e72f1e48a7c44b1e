//! A mixture of experts (Shazeer et al. 2017, arXiv:1701.06538): a router chooses a few feed-forwards for each row.
//!
//! **Invariant:** a row's result does not depend on other rows: experts are added up in the order of their numbers, and each
//! computes a row with the same bits in any company.

use super::decoder::indices;
use super::linear::Linear;
use super::mlp::Mlp;
use burn::module::Module;
use burn::tensor::{IndexingUpdateOp, Tensor, TensorData};

#[derive(Module, Debug)]
pub(crate) struct Experts {
    /// `[experts, hidden]`
    pub(crate) router: Linear,
    pub(crate) experts: Vec<Mlp>,
    /// Experts that a row goes through.
    #[module(skip)]
    pub(crate) used: usize,
    /// The weights of those used are scaled to a sum of 1.
    #[module(skip)]
    pub(crate) renormalise: bool,
}

/// The rows of one expert, and by what its results are multiplied.
#[derive(Default)]
struct Share {
    rows: Vec<usize>,
    weights: Vec<f32>,
}

impl Experts {
    /// `x [rows, hidden] f32 → [rows, hidden] f32`
    pub(super) fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let device = x.device();
        let mut out = x.zeros_like();
        let shares = self.shares(&self.router.forward(x.clone()).into_data());
        for (expert, share) in self.experts.iter().zip(shares).filter(|(_, share)| !share.rows.is_empty()) {
            let rows = indices(&share.rows, &device);
            let weights = TensorData::new(share.weights, [share.rows.len(), 1]);
            let y = expert.forward(x.clone().select(0, rows.clone())) * Tensor::from_data(weights, &device);
            out = out.select_assign(0, rows, y, IndexingUpdateOp::Add);
        }
        out
    }

    /// Deals the rows out: for each expert its share. `logits [rows, experts]`.
    fn shares(&self, logits: &TensorData) -> Vec<Share> {
        let logits = logits.as_slice::<f32>().expect("the router's results are f32");
        let mut shares: Vec<Share> = Vec::new();
        shares.resize_with(self.experts.len(), Share::default);
        for (row, logits) in logits.chunks_exact(self.experts.len()).enumerate() {
            for (expert, weight) in choose(logits, self.used, self.renormalise) {
                shares[expert].rows.push(row);
                shares[expert].weights.push(weight);
            }
        }
        shares
    }
}

/// The `used` likeliest experts, equals by number, with their probabilities.
fn choose(logits: &[f32], used: usize, renormalise: bool) -> Vec<(usize, f32)> {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut weights: Vec<(usize, f32)> = logits.iter().map(|&logit| (logit - largest).exp()).enumerate().collect();
    let mut total: f32 = weights.iter().map(|(_, weight)| weight).sum();
    weights.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    weights.truncate(used);
    if renormalise {
        total = weights.iter().map(|(_, weight)| weight).sum();
    }
    weights.iter_mut().for_each(|(_, weight)| *weight /= total);
    weights
}

#[cfg(test)]
mod tests {
    use super::choose;

    #[test]
    fn the_likeliest_are_chosen_and_equals_by_number() {
        let logits = [1.0, 3.0, 3.0, 2.0];
        let numbers = |used| choose(&logits, used, true).iter().map(|(expert, _)| *expert).collect::<Vec<_>>();
        assert_eq!(numbers(1), [1]);
        assert_eq!(numbers(3), [1, 2, 3]);
        let of = |renormalise| choose(&logits, 2, renormalise).iter().map(|(_, weight)| weight).sum::<f32>();
        assert!((of(true) - 1.0).abs() < 1e-6);
        let probability = 2.0 * 3f32.exp() / logits.iter().map(|logit| logit.exp()).sum::<f32>();
        assert!((of(false) - probability).abs() < 1e-6);
    }
}
