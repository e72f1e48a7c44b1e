//! Restore: a snapshot's tensors become the graph's, in place. **Invariant:** the time does not depend on the size of the
//! weights; every tensor's format and shape is checked against the configuration before use. **Absent:** verification of
//! the bytes, which goes on beside it (`snapshot::Verification`).

use crate::config::EncoderConfig;
use crate::graph::{
    Attention, Decoder, Direct, Encoder, EncoderGraph, EncoderLayer, Experts, FeedForward, Frequencies, Layer,
    LayerNorm, Linear, Mlp, Model, RmsNorm,
};
use crate::import::plan::{EMBEDDING, HEAD, NORM};
use crate::upload::Plan;
use crate::{Error, ModelConfig, Target};
use burn::tensor::{Device, Tensor, TensorData};
use kernels::{Format, KvFormat, Matrix, Packing, Scores};
use snapshot::Snapshot;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

impl Model {
    /// The model in `snapshot`, computing on the mapping itself.
    ///
    /// # Errors
    /// [`Error::BadModel`] naming the tensor or field where the table and the configuration do not fit.
    pub fn restore(snapshot: &Arc<Snapshot>) -> Result<Self, Error> {
        Self::restore_on(snapshot, Device::flex())
    }

    /// The same on another device, onto which the weights are brought while the model is already used: see [`Model::uploading`].
    ///
    /// # Errors
    /// As [`Model::restore`]; [`Error::Device`] where the device cannot be used.
    pub fn restore_on(snapshot: &Arc<Snapshot>, device: Device) -> Result<Self, Error> {
        let config = ModelConfig::from_snapshot(snapshot)?;
        if config.variant.encoder.is_some() {
            return Err(Error::Unsupported("an encoder: it makes embeddings and generates nothing".into()));
        }
        let weights = Weights::new(snapshot, &device, &config);
        let graph = weights.decoder()?;
        let uploading = weights.plan.into_inner().start(snapshot, &device)?;
        let kv_format = if snapshot.weights() == "f32" { KvFormat::F32 } else { KvFormat::F16 };
        let direct = Direct::of(&graph);
        Ok(Self { config, graph, direct, kv_format, device, uploading })
    }
}

impl Encoder {
    /// The encoder in `snapshot`, computing on the mapping itself.
    ///
    /// # Errors
    /// [`Error::BadModel`] naming the tensor or field where the table and the configuration do not fit.
    pub fn restore(snapshot: &Arc<Snapshot>) -> Result<Self, Error> {
        let config = ModelConfig::from_snapshot(snapshot)?;
        let decoder = || Error::Unsupported("a decoder: it generates and makes no embeddings".into());
        let shape = config.variant.encoder.clone().ok_or_else(decoder)?;
        let graph = Weights::new(snapshot, &Device::flex(), &config).encoder(&shape)?;
        Ok(Self { config, shape, graph })
    }
}

/// A snapshot's tensors by name, and the modules made of them.
struct Weights<'a> {
    snapshot: &'a Arc<Snapshot>,
    tensors: HashMap<&'a str, &'a snapshot::Tensor>,
    device: &'a Device,
    config: &'a ModelConfig,
    warned: Cell<bool>,
    /// What is to be brought to a device.
    plan: RefCell<Plan>,
}

impl<'a> Weights<'a> {
    fn new(snapshot: &'a Arc<Snapshot>, device: &'a Device, config: &'a ModelConfig) -> Self {
        let tensors = snapshot.tensors().iter().map(|t| (t.name.as_str(), t)).collect();
        Self { snapshot, tensors, device, config, warned: Cell::new(false), plan: RefCell::default() }
    }

    fn decoder(&self) -> Result<Decoder, Error> {
        let ModelConfig { vocab_size, hidden_size, .. } = *self.config;
        let variant = &self.config.variant;
        let embedding = Linear::new(self.matrix(EMBEDDING, vocab_size, hidden_size)?, None);
        let layers = (0..self.config.layers).map(|i| self.layer(i)).collect::<Result<_, _>>()?;
        self.plan.borrow_mut().next_step();
        let norm = self.norm(NORM, hidden_size)?;
        let head = if self.config.tied_embedding {
            embedding.clone()
        } else {
            Linear::new(self.matrix(HEAD, vocab_size, hidden_size)?, None)
        };
        let rotated = self.config.rotary_dim();
        let local = variant.sliding.as_ref().and_then(|sliding| sliding.rope.as_ref());
        Ok(Decoder {
            embedding,
            layers,
            norm,
            head,
            frequencies: Frequencies::new(&self.config.rope, rotated),
            local_frequencies: local.map(|rope| Frequencies::new(rope, rotated)),
            embedding_scale: variant.embedding_scale,
            logit_softcap: variant.logit_softcap,
        })
    }

    fn layer(&self, index: usize) -> Result<Layer, Error> {
        self.plan.borrow_mut().next_step();
        let at = format!("model.layers.{index}");
        let norm = |part: &str| self.norm(&format!("{at}.{part}.weight"), self.config.hidden_size);
        let out_norm = |part: &str| self.config.variant.output_norms.then(|| norm(part)).transpose();
        Ok(Layer {
            input_norm: norm("input_layernorm")?,
            attention: self.attention(index, &format!("{at}.self_attn"))?,
            attention_out_norm: out_norm("attention_out_norm")?,
            mlp_norm: norm("post_attention_layernorm")?,
            feed_forward: self.feed_forward(index, &format!("{at}.mlp"))?,
            mlp_out_norm: out_norm("mlp_out_norm")?,
        })
    }

    fn attention(&self, layer: usize, at: &str) -> Result<Attention, Error> {
        let ModelConfig { hidden_size, heads, kv_heads, head_dim, .. } = *self.config;
        let variant = &self.config.variant;
        let biases = variant.biases;
        let linear = |part: &str, n, k, bias| self.linear(&format!("{at}.{part}"), n, k, bias);
        let norm = |part: &str| {
            let norm = || self.norm(&format!("{at}.{part}.weight"), head_dim);
            variant.qk_norm.then(norm).transpose()
        };
        let sliding = variant.sliding.as_ref().filter(|sliding| sliding.layers[layer]);
        Ok(Attention {
            q: linear("q_proj", heads * head_dim, hidden_size, biases.qkv)?,
            k: linear("k_proj", kv_heads * head_dim, hidden_size, biases.qkv)?,
            v: linear("v_proj", kv_heads * head_dim, hidden_size, biases.qkv)?,
            o: linear("o_proj", hidden_size, heads * head_dim, biases.output)?,
            q_norm: norm("q_norm")?,
            k_norm: norm("k_norm")?,
            heads,
            kv_heads,
            head_dim,
            scores: Scores {
                scale: variant.attention_scale.unwrap_or_else(|| 1.0 / (head_dim as f32).sqrt()),
                window: sliding.map(|sliding| sliding.window),
            },
        })
    }

    fn feed_forward(&self, layer: usize, at: &str) -> Result<FeedForward, Error> {
        let Some(experts) = self.config.experts_of(layer) else {
            let mlp = self.mlp(at, self.config.intermediate_size, self.config.variant.biases.mlp);
            return mlp.map(FeedForward::Dense);
        };
        let expert = |number: usize| self.mlp(&format!("{at}.experts.{number}"), experts.width, false);
        Ok(FeedForward::Experts(Experts {
            router: self.linear(&format!("{at}.gate"), experts.count, self.config.hidden_size, false)?,
            experts: (0..experts.count).map(expert).collect::<Result<_, _>>()?,
            used: experts.used,
            renormalise: experts.renormalise,
        }))
    }

    fn mlp(&self, at: &str, inner: usize, bias: bool) -> Result<Mlp, Error> {
        let hidden = self.config.hidden_size;
        Ok(Mlp {
            gate: self.linear(&format!("{at}.gate_proj"), inner, hidden, bias)?,
            up: self.linear(&format!("{at}.up_proj"), inner, hidden, bias)?,
            down: self.linear(&format!("{at}.down_proj"), hidden, inner, bias)?,
            activation: self.config.variant.activation,
        })
    }

    fn encoder(&self, shape: &EncoderConfig) -> Result<EncoderGraph, Error> {
        let ModelConfig { vocab_size, hidden_size, .. } = *self.config;
        let table = |name: &str, rows| self.matrix(&format!("embeddings.{name}.weight"), rows, hidden_size);
        let layer = |i| self.encoder_layer(&format!("encoder.layer.{i}"));
        Ok(EncoderGraph {
            words: Linear::new(table("word_embeddings", vocab_size)?, None),
            positions: Linear::new(table("position_embeddings", shape.positions)?, None),
            types: Linear::new(table("token_type_embeddings", shape.token_types)?, None),
            norm: self.layer_norm("embeddings.LayerNorm")?,
            layers: (0..self.config.layers).map(layer).collect::<Result<_, _>>()?,
        })
    }

    fn encoder_layer(&self, at: &str) -> Result<EncoderLayer, Error> {
        let ModelConfig { hidden_size: hidden, intermediate_size: inner, .. } = *self.config;
        let linear = |part: &str, n, k| self.linear(&format!("{at}.{part}"), n, k, true);
        Ok(EncoderLayer {
            q: linear("attention.self.query", hidden, hidden)?,
            k: linear("attention.self.key", hidden, hidden)?,
            v: linear("attention.self.value", hidden, hidden)?,
            o: linear("attention.output.dense", hidden, hidden)?,
            attention_norm: self.layer_norm(&format!("{at}.attention.output.LayerNorm"))?,
            up: linear("intermediate.dense", inner, hidden)?,
            down: linear("output.dense", hidden, inner)?,
            mlp_norm: self.layer_norm(&format!("{at}.output.LayerNorm"))?,
        })
    }

    fn layer_norm(&self, at: &str) -> Result<LayerNorm, Error> {
        let vector =
            |part: &str| Ok::<_, Error>(self.tensor(self.vector(&format!("{at}.{part}"), self.config.hidden_size)?));
        Ok(LayerNorm::new(vector("weight")?, vector("bias")?, self.config.rms_norm_eps as f32))
    }

    /// A projection `[n, k]` in any format, in place.
    fn linear(&self, at: &str, n: usize, k: usize, bias: bool) -> Result<Linear, Error> {
        let weight = self.matrix(&format!("{at}.weight"), n, k)?;
        let bias = bias.then(|| self.vector(&format!("{at}.bias"), n)).transpose()?;
        Ok(Linear::new(weight, bias.map(|bias| self.tensor(bias))))
    }

    fn matrix(&self, name: &str, n: usize, k: usize) -> Result<Matrix, Error> {
        let Found { format, packing, tensor } = self.stored(name, &[n, k], k)?;
        let is_uploaded = kernels::takes_uploads(self.device);
        let matrix = if is_uploaded && packing == Packing::Rows {
            let planned = self.plan.borrow_mut().matrix(tensor.range(), format, n, k, self.device);
            planned.map(|matrix| matrix.expect("a device that takes uploads"))
        } else if !is_uploaded && kernels::takes(packing) {
            // Its kernels announce what they read.
            Matrix::packed(self.snapshot.tensor_in_place(tensor), format, packing, n, k, self.device)
        } else {
            let bytes = self.snapshot.tensor_bytes(tensor);
            self.warn_of_repacking(if is_uploaded { Target::Gpu } else { Target::here() });
            Matrix::from_bytes(unpacked(&bytes, format, packing, n, k).into(), format, n, k, self.device)
        };
        matrix.map_err(|e| Error::BadModel(format!("tensor {name}: {e}")))
    }

    /// Once for a model.
    fn warn_of_repacking(&self, here: Target) {
        if !self.warned.replace(true) {
            let (model, sealed, here) = (self.snapshot.model(), self.snapshot.target(), here.name());
            tracing::warn!(
                "{model} is sealed for {sealed}, which this device is not: its weights are laid out anew at each start, in \
                 memory of this process's own; seal it once more: pilotlight seal MODEL --target {here}"
            );
        }
    }

    fn norm(&self, name: &str, n: usize) -> Result<RmsNorm, Error> {
        let mut weight = self.vector(name, n)?;
        weight.iter_mut().for_each(|w| *w += self.config.variant.norm_offset);
        Ok(RmsNorm::new(self.tensor(weight), self.config.rms_norm_eps as f32))
    }

    fn tensor(&self, values: Vec<f32>) -> Tensor<1> {
        let n = values.len();
        Tensor::from_data(TensorData::new(values, [n]), self.device)
    }

    /// `[n] f32`: a few kilobytes, read into float32 whatever they are stored as.
    fn vector(&self, name: &str, n: usize) -> Result<Vec<f32>, Error> {
        let Found { format, tensor, .. } = self.stored(name, &[n], n)?;
        let mut values = vec![0.0; n];
        format.dequantize_row(&self.snapshot.tensor_bytes(tensor), &mut values);
        Ok(values)
    }

    /// The tensor `name`, which must have `shape` in rows of `k` elements.
    fn stored(&self, name: &str, shape: &[usize], k: usize) -> Result<Found<'_>, Error> {
        let bad = |what: String| Error::BadModel(format!("tensor {name}: {what}"));
        let stored = *self.tensors.get(name).ok_or_else(|| bad("missing".into()))?;
        let Some(format) = Format::from_name(&stored.dtype) else {
            return Err(Error::Unsupported(format!("tensor {name}: dtype {}", stored.dtype)));
        };
        let Some(packing) = Packing::from_name(&stored.layout).filter(|p| shape.len() == 2 || *p == Packing::Rows)
        else {
            return Err(Error::Unsupported(format!("tensor {name}: layout {}", stored.layout)));
        };
        if !stored.shape.iter().copied().eq(shape.iter().map(|&d| d as u64)) {
            return Err(bad(format!("shape {:?}, where the configuration asks for {shape:?}", stored.shape)));
        }
        if !packing.takes(format, k) {
            return Err(bad(format!(
                "rows of {k} elements are no whole {} blocks in {}",
                format.name(),
                packing.name()
            )));
        }
        let rows: usize = shape.iter().product::<usize>() / k;
        if packing.bytes(format, rows, k).map(|bytes| bytes as u64) != Some(stored.bytes) {
            let expected = format!("{rows} rows of {k} {} are expected", format.name());
            return Err(bad(format!("{} bytes, where {expected}", stored.bytes)));
        }
        Ok(Found { format, packing, tensor: stored })
    }
}

/// A tensor of the snapshot, checked.
struct Found<'a> {
    format: Format,
    packing: Packing,
    tensor: &'a snapshot::Tensor,
}

/// The same matrix row by row.
fn unpacked(bytes: &[u8], format: Format, packing: Packing, n: usize, k: usize) -> Vec<u8> {
    let row_bytes = format.row_bytes(k).expect("what is packed has whole rows");
    let mut rows = vec![0; n * row_bytes];
    for (i, row) in rows.chunks_exact_mut(row_bytes).enumerate() {
        packing.row(format, k, bytes, i, row);
    }
    rows
}
