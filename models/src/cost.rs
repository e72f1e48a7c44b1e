//! What tokens cost: bytes read and operations done, by a model's shape and its snapshot's tensors. For comparing a speed with what
//! a machine can do.
//!
//! **Counted:** every tensor that a token goes through, once; of the embedding one row, unless it is the head, too; of experts those
//! that are used; keys and values that attention sees; two operations for each product of a matrix or of attention. **Absent:**
//! what stays in caches (activations), and the small operations between matrices.

use crate::graph::Model;
use crate::import::plan::{EMBEDDING, HEAD};
use crate::{Error, ModelConfig};
use kernels::limits::Arithmetic;
use kernels::{BLOCK_TOKENS, Format, KvLayer, Packing};
use snapshot::Snapshot;
use std::collections::BTreeMap;

/// Operations (multiplications and additions), by the numbers they are done in.
pub type Operations = BTreeMap<Arithmetic, f64>;

/// What tokens of one model cost on this processor.
#[derive(Clone, Debug)]
pub struct Cost {
    config: ModelConfig,
    /// Bytes of weights read for one token alone.
    weights: f64,
    /// Of one position in one layer, keys and values together.
    kv_bytes: f64,
    /// For each row of a step.
    row: Operations,
    /// For each row whose logits are wanted.
    head: Operations,
}

impl Cost {
    /// Of `model`, which was restored from `snapshot`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where a tensor's format or layout is not known.
    pub fn new(model: &Model, snapshot: &Snapshot) -> Result<Self, Error> {
        let config = model.config.clone();
        let kv_bytes = KvLayer::block_bytes(config.kv_heads, config.head_dim, model.kv_format) as f64;
        let (row, head) = (Operations::new(), Operations::new());
        let mut cost = Self { weights: 0.0, kv_bytes: kv_bytes / BLOCK_TOKENS as f64, row, head, config };
        snapshot.tensors().iter().try_for_each(|tensor| cost.add(tensor))?;
        Ok(cost)
    }

    fn add(&mut self, tensor: &snapshot::Tensor) -> Result<(), Error> {
        let share = self.share_of(&tensor.name);
        self.weights += tensor.bytes as f64 * share;
        let &[n, k] = tensor.shape.as_slice() else { return Ok(()) };
        let of = match tensor.name.as_str() {
            EMBEDDING if !self.config.tied_embedding => return Ok(()),
            EMBEDDING | HEAD => &mut self.head,
            _ => &mut self.row,
        };
        *of.entry(arithmetic(tensor)?).or_default() += 2.0 * n as f64 * k as f64 * share;
        Ok(())
    }

    /// How much of a tensor one token goes through.
    fn share_of(&self, name: &str) -> f64 {
        let experts = self.config.variant.experts.as_ref().filter(|_| name.contains(".mlp.experts."));
        match experts {
            Some(experts) => experts.used as f64 / experts.count as f64,
            None if name == EMBEDDING && !self.config.tied_embedding => 1.0 / self.config.vocab_size as f64,
            None => 1.0,
        }
    }

    /// Bytes of weights that are read for one token alone.
    pub fn weight_bytes(&self) -> f64 {
        self.weights
    }

    /// Bytes of keys and values that are read for the token at `position`, its own included.
    pub fn kv_bytes(&self, position: usize) -> f64 {
        self.kv_bytes * self.seen(position)
    }

    /// Operations of a prompt of `tokens` tokens after which one token is sampled, in an empty context.
    pub fn prefill(&self, tokens: usize) -> Operations {
        let mut all = self.head.clone();
        for (kind, count) in &self.row {
            *all.entry(*kind).or_default() += count * tokens as f64;
        }
        let seen: f64 = (0..tokens).map(|position| self.seen(position)).sum();
        // A query by a key and a weight by a value, in float32 whatever they are kept in.
        let of_each = 4.0 * (self.config.heads * self.config.head_dim) as f64;
        *all.entry(Arithmetic::F32).or_default() += of_each * seen;
        all
    }

    /// Positions that the one at `position` sees, over all layers.
    fn seen(&self, position: usize) -> f64 {
        let sliding = self.config.variant.sliding.as_ref();
        let of_layer = |layer: usize| match sliding {
            Some(sliding) if sliding.layers[layer] => (position + 1).min(sliding.window),
            _ => position + 1,
        };
        (0..self.config.layers).map(of_layer).sum::<usize>() as f64
    }
}

/// What a matrix is multiplied in; one that is packed for another processor is unpacked at restore.
fn arithmetic(tensor: &snapshot::Tensor) -> Result<Arithmetic, Error> {
    let unknown = |what: &str| Error::Unsupported(format!("tensor {}: {what}", tensor.name));
    let format = Format::from_name(&tensor.dtype).ok_or_else(|| unknown(&tensor.dtype))?;
    let packing = Packing::from_name(&tensor.layout).ok_or_else(|| unknown(&tensor.layout))?;
    Ok(Arithmetic::of(if kernels::takes(packing) { packing } else { Packing::Rows }, format))
}
