//! One decoder layer: attention and feed-forward, each after a normalisation and added to the residual stream.

use super::attention::Attention;
use super::experts::Experts;
use super::mlp::Mlp;
use super::norm::RmsNorm;
use super::rope::Turns;
use burn::module::Module;
use burn::tensor::Tensor;
use kernels::KvLayer;
use std::sync::Arc;

#[derive(Module, Debug)]
pub(crate) struct Layer {
    pub(crate) input_norm: RmsNorm,
    pub(crate) attention: Attention,
    /// Before attention is added to the stream.
    pub(crate) attention_out_norm: Option<RmsNorm>,
    pub(crate) mlp_norm: RmsNorm,
    pub(crate) feed_forward: FeedForward,
    /// Before the feed-forward is added to the stream.
    pub(crate) mlp_out_norm: Option<RmsNorm>,
}

/// What a layer does after attention.
#[derive(Module, Debug)]
#[allow(clippy::large_enum_variant, reason = "a box is no module, and there are few layers")]
pub(crate) enum FeedForward {
    /// The same for every token.
    Dense(Mlp),
    /// A few of many, chosen token by token.
    Experts(Experts),
}

/// What all layers of one step share.
pub(super) struct Step {
    pub(super) segments: Arc<[kernels::Segment]>,
    pub(super) turns: Turns,
    /// Of layers with a sliding window.
    pub(super) local_turns: Turns,
}

impl Layer {
    /// `x [rows, hidden] f32 → [rows, hidden] f32`; writes the rows' keys and values into `kv`.
    pub(super) fn forward(&self, x: Tensor<2>, step: &Step, kv: &mut KvLayer) -> Tensor<2> {
        let mixed = self.attention.forward(self.input_norm.forward(x.clone()), step, kv);
        let x = normed(self.attention_out_norm.as_ref(), mixed) + x;
        let y = self.mlp_norm.forward(x.clone());
        let y = match &self.feed_forward {
            FeedForward::Dense(mlp) => mlp.forward(y),
            FeedForward::Experts(experts) => experts.forward(y),
        };
        normed(self.mlp_out_norm.as_ref(), y) + x
    }
}

fn normed(norm: Option<&RmsNorm>, x: Tensor<2>) -> Tensor<2> {
    match norm {
        Some(norm) => norm.forward(x),
        None => x,
    }
}
