//! One decoder layer: attention and feed-forward, each after a normalisation and added to the residual stream.

use super::attention::Attention;
use super::experts::Experts;
use super::linear::Linear;
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
        let mixed = self.attention.mix(&self.input_norm, x.clone(), step, kv);
        let x = added(&self.attention.o, self.attention_out_norm.as_ref(), mixed, x);
        match &self.feed_forward {
            FeedForward::Dense(mlp) => added(&mlp.down, self.mlp_out_norm.as_ref(), mlp.gated(&self.mlp_norm, &x), x),
            FeedForward::Experts(experts) => {
                let y = experts.forward(self.mlp_norm.forward(x.clone()));
                self.mlp_out_norm.as_ref().map_or(y.clone(), |norm| norm.forward(y)) + x
            }
        }
    }
}

/// The last projection of a part, normalised where there is a norm, added to the stream.
fn added(last: &Linear, norm: Option<&RmsNorm>, y: Tensor<2>, stream: Tensor<2>) -> Tensor<2> {
    match norm {
        Some(norm) => norm.forward(last.forward(y)) + stream,
        None => last.forward_add(y, stream),
    }
}
