//! Rotary position embedding of half-rotated heads (Hugging Face's layout: element `i` turns with element
//! `i + head_dim/2`). **Absent:** a table over the context; each step computes the positions it has.

use super::{Segment, direct};
use crate::{Rope, RopeScaling};
use burn::tensor::{Device, Tensor, TensorData};
use std::f64::consts::TAU;

/// Radians a pair turns per position: `[rotated / 2]`.
#[derive(Clone, Debug)]
pub(crate) struct Frequencies {
    usual: Vec<f32>,
    /// Beyond the original context.
    long: Option<Long>,
    /// Sines and cosines are multiplied by it.
    factor: f32,
}

#[derive(Clone, Debug)]
struct Long {
    frequencies: Vec<f32>,
    /// Tokens of the original context.
    beyond: usize,
}

/// The turns of one step's rows, shared by all layers: `[rows, rotated / 2]` each.
#[derive(Clone)]
pub(super) struct Turns {
    cos: Tensor<2>,
    sin: Tensor<2>,
}

impl Frequencies {
    /// For the first `rotated` elements of a head.
    pub(crate) fn new(rope: &Rope, rotated: usize) -> Self {
        let all = |divisor: &dyn Fn(f64, usize) -> f64| {
            let frequency = |pair: usize| {
                let plain = rope.theta.powf(-((2 * pair) as f64) / rotated as f64);
                (plain / divisor(plain, pair)) as f32
            };
            (0..rotated / 2).map(frequency).collect::<Vec<f32>>()
        };
        let ramp = Ramp::of(rope, rotated);
        let usual = all(&|plain, pair| divisor(plain, pair, &rope.scaling, ramp));
        match &rope.scaling {
            RopeScaling::LongRope { long, original_context, attention_factor, .. } => {
                let frequencies = all(&|_, pair| long[pair]);
                let long = Some(Long { frequencies, beyond: *original_context });
                Self { usual, long, factor: *attention_factor as f32 }
            }
            RopeScaling::Yarn { attention_factor, .. } => Self { usual, long: None, factor: *attention_factor as f32 },
            _ => Self { usual, long: None, factor: 1.0 },
        }
    }

    pub(super) fn turns(&self, segments: &[Segment], device: &Device) -> Turns {
        let mut turns = direct::Turns::default();
        self.write_turns(segments, &mut turns);
        let pairs = self.usual.len();
        let tensor = |values: Vec<f32>| {
            let rows = values.len() / pairs;
            Tensor::from_data(TensorData::new(values, [rows, pairs]), device)
        };
        Turns { cos: tensor(turns.cos), sin: tensor(turns.sin) }
    }

    /// The same into the memory there is.
    pub(super) fn write_turns(&self, segments: &[Segment], turns: &mut direct::Turns) {
        turns.cos.clear();
        turns.sin.clear();
        for segment in segments {
            for position in segment.position..segment.position + segment.rows {
                for frequency in self.at(segment.length) {
                    // The product is rounded to float32 as the reference implementations do.
                    let (s, c) = (position as f32 * frequency).sin_cos();
                    turns.cos.push(c * self.factor);
                    turns.sin.push(s * self.factor);
                }
            }
        }
    }

    /// A sequence beyond the original context has the long frequencies from its first token on: who grows beyond it is
    /// computed anew.
    fn at(&self, length: usize) -> &[f32] {
        match &self.long {
            Some(long) if length > long.beyond => &long.frequencies,
            _ => &self.usual,
        }
    }
}

impl Turns {
    /// Cosines and sines, for attention.
    pub(super) fn of_kernels(&self) -> [Tensor<2>; 2] {
        [self.cos.clone(), self.sin.clone()]
    }
}

/// By how much the model's scaling slows pair `pair`. Llama 3 (model card of Llama 3.1) leaves short wavelengths alone,
/// divides long ones, and blends between.
fn divisor(frequency: f64, pair: usize, scaling: &RopeScaling, ramp: Ramp) -> f64 {
    match scaling {
        RopeScaling::None => 1.0,
        RopeScaling::Linear { factor } => *factor,
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let turns_in_context = *original_context as f64 * frequency / TAU;
            let blend = (turns_in_context - low_freq_factor) / (high_freq_factor - low_freq_factor);
            let kept = blend.clamp(0.0, 1.0);
            1.0 / (kept + (1.0 - kept) / factor)
        }
        RopeScaling::Yarn { factor, .. } => {
            let divided = ramp.at(pair);
            1.0 / ((1.0 - divided) + divided / factor)
        }
        RopeScaling::Factors { factors } | RopeScaling::LongRope { short: factors, .. } => factors[pair],
    }
}

/// Over which pairs YaRN goes from keeping a frequency to dividing it.
#[derive(Clone, Copy)]
struct Ramp {
    low: f64,
    high: f64,
}

impl Ramp {
    /// Of no consequence but for YaRN.
    fn of(rope: &Rope, rotated: usize) -> Self {
        let RopeScaling::Yarn { original_context, beta_fast, beta_slow, truncate, .. } = rope.scaling else {
            return Self { low: 0.0, high: 1.0 };
        };
        // The pair that turns so often in the original context.
        let pair =
            |turns: f64| rotated as f64 * (original_context as f64 / (turns * TAU)).ln() / (2.0 * rope.theta.ln());
        let (low, high) = (pair(beta_fast), pair(beta_slow));
        let (low, high) = if truncate { (low.floor(), high.ceil()) } else { (low, high) };
        let (low, high) = (low.max(0.0), high.min(rotated as f64 - 1.0));
        Self { low, high: if low == high { high + 0.001 } else { high } }
    }

    fn at(self, pair: usize) -> f64 {
        ((pair as f64 - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}
