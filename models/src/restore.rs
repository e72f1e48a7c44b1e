//! Restore: a snapshot's tensors become the graph's, in place. **Invariant:** the time does not depend on the size of the
//! weights; every tensor's format and shape is checked against the configuration before use. **Absent:** verification of
//! the bytes, which goes on beside it (`snapshot::Verification`).

use crate::graph::{Attention, Frequencies, Layer, Linear, Llama, Mlp, Model, RmsNorm};
use crate::{Architecture, Error, ModelConfig, RopeScaling};
use burn::tensor::{Device, Tensor, TensorData};
use bytes::Bytes;
use kernels::{Format, KvFormat, Matrix};
use snapshot::{SectionKind, Snapshot};
use std::collections::HashMap;
use std::sync::Arc;

/// The only layout this version writes and reads: rows one after another, as in the model's own files.
const ROW_MAJOR: &str = "row-major";

impl Model {
    /// The model in `snapshot`, computing on the mapping itself.
    ///
    /// # Errors
    /// [`Error::BadModel`] naming the tensor or field where the table and the configuration do not fit.
    pub fn restore(snapshot: &Arc<Snapshot>) -> Result<Self, Error> {
        let section = snapshot.section(SectionKind::Config)?;
        let json = section.ok_or_else(|| Error::BadModel("the snapshot has no config section".into()))?;
        let config = serde_json::from_slice(json).map_err(|e| Error::BadModel(format!("config section: {e}")))?;
        check(&config)?;
        let device = Device::flex();
        let tensors = snapshot.tensors().iter().map(|t| (t.name.as_str(), t)).collect();
        let graph = Weights { snapshot, tensors, device: &device }.llama(&config)?;
        let kv_format = if snapshot.weights() == "f32" { KvFormat::F32 } else { KvFormat::F16 };
        Ok(Self { config, graph, kv_format, device })
    }
}

/// A snapshot's tensors by name, and the modules made of them.
struct Weights<'a> {
    snapshot: &'a Arc<Snapshot>,
    tensors: HashMap<&'a str, &'a snapshot::Tensor>,
    device: &'a Device,
}

impl Weights<'_> {
    fn llama(&self, config: &ModelConfig) -> Result<Llama, Error> {
        let ModelConfig { vocab_size, hidden_size, .. } = *config;
        let embedding = self.linear("model.embed_tokens.weight", vocab_size, hidden_size)?;
        let layers = (0..config.layers).map(|i| self.layer(i, config)).collect::<Result<_, _>>()?;
        let norm = self.norm("model.norm.weight", config)?;
        let head = if config.tied_embedding {
            embedding.clone()
        } else {
            self.linear("lm_head.weight", vocab_size, hidden_size)?
        };
        let frequencies = Frequencies::new(&config.rope, config.head_dim);
        Ok(Llama { embedding, layers, norm, head, frequencies })
    }

    fn layer(&self, index: usize, config: &ModelConfig) -> Result<Layer, Error> {
        let ModelConfig { hidden_size, intermediate_size, heads, kv_heads, head_dim, .. } = *config;
        let name = |part: &str| format!("model.layers.{index}.{part}.weight");
        let linear = |part: &str, n, k| self.linear(&name(part), n, k);
        Ok(Layer {
            input_norm: self.norm(&name("input_layernorm"), config)?,
            attention: Attention {
                q: linear("self_attn.q_proj", heads * head_dim, hidden_size)?,
                k: linear("self_attn.k_proj", kv_heads * head_dim, hidden_size)?,
                v: linear("self_attn.v_proj", kv_heads * head_dim, hidden_size)?,
                o: linear("self_attn.o_proj", hidden_size, heads * head_dim)?,
                heads,
                kv_heads,
                head_dim,
            },
            mlp_norm: self.norm(&name("post_attention_layernorm"), config)?,
            mlp: Mlp {
                gate: linear("mlp.gate_proj", intermediate_size, hidden_size)?,
                up: linear("mlp.up_proj", intermediate_size, hidden_size)?,
                down: linear("mlp.down_proj", hidden_size, intermediate_size)?,
            },
        })
    }

    /// `[n, k]` in any format, in place.
    fn linear(&self, name: &str, n: usize, k: usize) -> Result<Linear, Error> {
        let (format, bytes) = self.stored(name, &[n, k], k)?;
        let matrix = Matrix::from_bytes(bytes, format, n, k, self.device);
        Ok(Linear::new(matrix.map_err(|e| Error::BadModel(format!("tensor {name}: {e}")))?))
    }

    fn norm(&self, name: &str, config: &ModelConfig) -> Result<RmsNorm, Error> {
        Ok(RmsNorm::new(self.vector(name, config.hidden_size)?, config.rms_norm_eps as f32))
    }

    /// `[n] f32`: a few kilobytes, read into float32 whatever they are stored as.
    fn vector(&self, name: &str, n: usize) -> Result<Tensor<1>, Error> {
        let (format, bytes) = self.stored(name, &[n], n)?;
        let mut values = vec![0.0; n];
        format.dequantize_row(&bytes, &mut values);
        Ok(Tensor::from_data(TensorData::new(values, [n]), self.device))
    }

    /// The tensor `name`, which must have `shape` in rows of `k` elements.
    fn stored(&self, name: &str, shape: &[usize], k: usize) -> Result<(Format, Bytes), Error> {
        let bad = |what: String| Error::BadModel(format!("tensor {name}: {what}"));
        let stored = *self.tensors.get(name).ok_or_else(|| bad("missing".into()))?;
        let bytes = self.snapshot.tensor_bytes(stored);
        let Some(format) = Format::from_name(&stored.dtype) else {
            return Err(Error::Unsupported(format!("tensor {name}: dtype {}", stored.dtype)));
        };
        if stored.layout != ROW_MAJOR {
            return Err(Error::Unsupported(format!("tensor {name}: layout {}", stored.layout)));
        }
        if !stored.shape.iter().copied().eq(shape.iter().map(|&d| d as u64)) {
            return Err(bad(format!("shape {:?}, where the configuration asks for {shape:?}", stored.shape)));
        }
        let row_bytes = format.row_bytes(k);
        let row_bytes =
            row_bytes.ok_or_else(|| bad(format!("rows of {k} elements are no whole {} blocks", format.name())))?;
        let rows: usize = shape.iter().product::<usize>() / k;
        let expected = row_bytes.checked_mul(rows);
        if expected != Some(bytes.len()) {
            return Err(bad(format!("{} bytes, where {rows} rows of {row_bytes} are expected", bytes.len())));
        }
        Ok((format, bytes))
    }
}

/// What the graph can run: refused here, so that no later arithmetic can overflow or divide by zero.
fn check(config: &ModelConfig) -> Result<(), Error> {
    let Architecture::Llama = config.architecture;
    let bad = |what: &str| Err(Error::BadModel(format!("config: {what}")));
    let sizes = [
        ("vocab_size", config.vocab_size),
        ("hidden_size", config.hidden_size),
        ("intermediate_size", config.intermediate_size),
        ("layers", config.layers),
        ("heads", config.heads),
        ("kv_heads", config.kv_heads),
        ("head_dim", config.head_dim),
        ("context_length", config.context_length),
    ];
    if let Some((name, value)) = sizes.into_iter().find(|(_, v)| !(1..=SIZE_MAX).contains(v)) {
        return bad(&format!("{name} is {value}, outside 1..={SIZE_MAX}"));
    }
    if !config.heads.is_multiple_of(config.kv_heads) {
        return bad(&format!("heads {} is no multiple of kv_heads {}", config.heads, config.kv_heads));
    }
    if !config.head_dim.is_multiple_of(2) {
        return bad(&format!("head_dim {} is odd, and cannot be rotated in halves", config.head_dim));
    }
    if !(config.rms_norm_eps.is_finite() && config.rms_norm_eps >= 0.0) {
        return bad(&format!("rms_norm_eps is {}", config.rms_norm_eps));
    }
    if !(config.rope.theta.is_finite() && config.rope.theta > 0.0) {
        return bad(&format!("rope.theta is {}", config.rope.theta));
    }
    let positive = |value: f64| value.is_finite() && value > 0.0;
    let scaling_is_sound = match &config.rope.scaling {
        RopeScaling::None => true,
        RopeScaling::Linear { factor } => positive(*factor),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            positive(*factor) && high_freq_factor > low_freq_factor && *original_context > 0
        }
        RopeScaling::Factors { factors } => {
            factors.len() == config.head_dim / 2 && factors.iter().all(|&f| positive(f))
        }
    };
    if !scaling_is_sound {
        return bad(&format!("rope.scaling is {:?}", config.rope.scaling));
    }
    Ok(())
}

/// No dimension of a model this runs is larger; products of two then fit in 64 bits with room.
const SIZE_MAX: usize = 1 << 24;
