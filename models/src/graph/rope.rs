//! Rotary position embedding of half-rotated heads (Hugging Face's layout: element `i` turns with element
//! `i + head_dim/2`). **Absent:** a table over the context; each step computes the positions it has.

use crate::{Rope, RopeScaling};
use burn::tensor::{Device, Tensor, TensorData};
use kernels::Segment;
use std::f64::consts::TAU;

/// Radians a pair turns per position: `[head_dim/2]`.
#[derive(Clone, Debug)]
pub(crate) struct Frequencies(Vec<f32>);

/// The turns of one step's rows, shared by all layers: `[rows, head_dim/2]` each.
pub(super) struct Turns {
    cos: Tensor<2>,
    sin: Tensor<2>,
}

impl Frequencies {
    pub(crate) fn new(rope: &Rope, head_dim: usize) -> Self {
        let frequency = |pair: usize| {
            let plain = rope.theta.powf(-((2 * pair) as f64) / head_dim as f64);
            (plain / divisor(plain, pair, &rope.scaling)) as f32
        };
        Self((0..head_dim / 2).map(frequency).collect())
    }

    pub(super) fn turns(&self, segments: &[Segment], device: &Device) -> Turns {
        let positions = segments.iter().flat_map(|s| s.position..s.position + s.rows);
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in positions {
            for frequency in &self.0 {
                // The product is rounded to float32 as the reference implementations do.
                let (s, c) = (position as f32 * frequency).sin_cos();
                cos.push(c);
                sin.push(s);
            }
        }
        let pairs = self.0.len();
        let tensor = |values: Vec<f32>| {
            let rows = values.len() / pairs;
            Tensor::from_data(TensorData::new(values, [rows, pairs]), device)
        };
        Turns { cos: tensor(cos), sin: tensor(sin) }
    }
}

impl Turns {
    /// `x [rows, heads, head_dim] f32`, each head turned by its row's position.
    pub(super) fn apply(&self, x: Tensor<3>) -> Tensor<3> {
        kernels::rotate(x, self.cos.clone(), self.sin.clone())
    }
}

/// By how much the model's scaling slows pair `pair`. Llama 3 (model card of Llama 3.1) leaves short wavelengths alone,
/// divides long ones, and blends between.
fn divisor(frequency: f64, pair: usize, scaling: &RopeScaling) -> f64 {
    match scaling {
        RopeScaling::None => 1.0,
        RopeScaling::Linear { factor } => *factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let turns_in_context = *original_context as f64 * frequency / TAU;
            let blend = (turns_in_context - low_freq_factor) / (high_freq_factor - low_freq_factor);
            let kept = blend.clamp(0.0, 1.0);
            1.0 / (kept + (1.0 - kept) / factor)
        }
        RopeScaling::Factors { factors } => factors[pair],
    }
}
