//! The Llama graph: token ids and KV in, logits out. **Absent:** sampling, text, and any knowledge of where weights
//! come from.

use super::Batch;
use super::layer::{Layer, Step};
use super::linear::Linear;
use super::norm::RmsNorm;
use super::rope::Frequencies;
use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use kernels::KvLayer;

#[derive(Module, Debug)]
pub(crate) struct Llama {
    /// `[vocab, hidden]`
    pub(crate) embedding: Linear,
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: RmsNorm,
    /// `[vocab, hidden]`; the embedding again where the two are tied.
    pub(crate) head: Linear,
    #[module(skip)]
    pub(crate) frequencies: Frequencies,
}

impl Llama {
    /// One step over the rows of all segments; `kv` has one element per layer. `[wanted, vocab] f32`.
    ///
    /// Only the wanted rows pass through the final normalisation and the head; where none is wanted there is no result.
    pub(super) fn forward(&self, batch: &Batch, kv: &mut [KvLayer], device: &Device) -> Option<Tensor<2>> {
        if batch.tokens.is_empty() {
            return None;
        }
        let step = Step { segments: &batch.segments, turns: self.frequencies.turns(&batch.segments, device) };
        let mut x = self.embedding.rows(&batch.tokens); // [rows, hidden]
        for (layer, kv) in self.layers.iter().zip(kv) {
            x = layer.forward(x, &step, kv);
        }
        if batch.wanted.is_empty() {
            return None;
        }
        let x = self.norm.forward(wanted_rows(x, &batch.wanted, device));
        Some(self.head.forward(x))
    }
}

/// `x [rows, hidden] → [wanted, hidden]`
fn wanted_rows(x: Tensor<2>, wanted: &[usize], device: &Device) -> Tensor<2> {
    let [rows, _hidden] = x.dims();
    if wanted.iter().copied().eq(0..rows) {
        return x;
    }
    let ids: Vec<i32> = wanted.iter().map(|&row| row as i32).collect();
    let ids = Tensor::<1, Int>::from_data(TensorData::new(ids, [wanted.len()]), device);
    x.select(0, ids)
}
