//! The decoder: token ids and KV in, logits out. **Absent:** sampling, text, and any knowledge of where weights come from.

use super::Batch;
use super::layer::{Layer, Step};
use super::linear::Linear;
use super::norm::RmsNorm;
use super::rope::Frequencies;
use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use kernels::KvLayer;

#[derive(Module, Debug)]
pub(crate) struct Decoder {
    /// `[vocab, hidden]`
    pub(crate) embedding: Linear,
    pub(crate) layers: Vec<Layer>,
    pub(crate) norm: RmsNorm,
    /// `[vocab, hidden]`; the embedding again where the two are tied.
    pub(crate) head: Linear,
    #[module(skip)]
    pub(crate) frequencies: Frequencies,
    /// Of layers with a sliding window, where they are others.
    #[module(skip)]
    pub(crate) local_frequencies: Option<Frequencies>,
    #[module(skip)]
    pub(crate) embedding_scale: Option<f32>,
    #[module(skip)]
    pub(crate) logit_softcap: Option<f32>,
}

impl Decoder {
    /// One step over the rows of all segments; `kv` has one element per layer. `[wanted, vocab] f32`.
    ///
    /// Only the wanted rows pass through the final normalisation and the head; where none is wanted there is no result. `arrived` waits for
    /// the weights of a step: the embedding, each layer, the head.
    pub(super) fn forward(
        &self,
        batch: &Batch,
        kv: &mut [KvLayer],
        device: &Device,
        arrived: &dyn Fn(usize),
    ) -> Option<Tensor<2>> {
        if batch.tokens.is_empty() {
            return None;
        }
        let turns = self.frequencies.turns(&batch.segments, device);
        let local = self.local_frequencies.as_ref().map(|local| local.turns(&batch.segments, device));
        let step =
            Step { segments: batch.kernel_segments(), local_turns: local.unwrap_or_else(|| turns.clone()), turns };
        arrived(0);
        let mut x = self.embedding.rows(&batch.tokens); // [rows, hidden]
        if let Some(scale) = self.embedding_scale {
            x = x * scale;
        }
        for ((layer, kv), step_of_pass) in self.layers.iter().zip(kv).zip(1..) {
            arrived(step_of_pass);
            x = layer.forward(x, &step, kv);
        }
        if batch.wanted.is_empty() {
            return None;
        }
        arrived(1 + self.layers.len());
        let x = self.norm.forward(wanted_rows(x, &batch.wanted, device));
        let logits = self.head.forward(x);
        Some(match self.logit_softcap {
            None => logits,
            Some(cap) => (logits / cap).tanh() * cap,
        })
    }
}

/// `x [rows, hidden] → [wanted, hidden]`
fn wanted_rows(x: Tensor<2>, wanted: &[usize], device: &Device) -> Tensor<2> {
    let [rows, _hidden] = x.dims();
    if wanted.iter().copied().eq(0..rows) {
        return x;
    }
    x.select(0, indices(wanted, device))
}

/// `[rows]`, for selecting rows.
pub(super) fn indices(rows: &[usize], device: &Device) -> Tensor<1, Int> {
    let ids: Vec<i32> = rows.iter().map(|&row| row as i32).collect();
    Tensor::from_data(TensorData::new(ids, [rows.len()]), device)
}
