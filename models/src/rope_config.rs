//! Rotary position embedding as a model's makers describe it (Su et al. 2021, arXiv:2104.09864).

use serde::{Deserialize, Serialize};

/// Rotary position embedding: half-rotation layout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// How the frequencies are stretched.
    pub scaling: RopeScaling,
}

/// Stretching of rotary frequencies for long contexts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum RopeScaling {
    /// None.
    None,
    /// Positions divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3's three bands.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths over `original_context / low_freq_factor` are divided by `factor`.
        low_freq_factor: f64,
        /// Wavelengths under `original_context / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context of the original training.
        original_context: usize,
    },
    /// Frequency `i` is divided by `factors[i]`; half as many as rotated elements (GGUF's `rope_freqs.weight`).
    Factors {
        /// The divisors, all finite and positive.
        factors: Vec<f64>,
    },
    /// YaRN (Peng et al. 2023, arXiv:2309.00071): pairs that turn often in the original context are kept, those that turn
    /// seldom are divided by `factor`, and between lies a ramp.
    Yarn {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Context of the original training.
        original_context: usize,
        /// Pairs with more turns than this in the original context are kept.
        beta_fast: f64,
        /// Pairs with fewer turns than this are divided.
        beta_slow: f64,
        /// The ends of the ramp are whole pairs.
        truncate: bool,
        /// Sines and cosines are multiplied by it.
        attention_factor: f64,
    },
    /// LongRoPE (Ding et al. 2024, arXiv:2402.13753): one set of divisors up to the original context, another beyond it.
    LongRope {
        /// The divisors for sequences within the original context.
        short: Vec<f64>,
        /// The divisors for longer ones.
        long: Vec<f64>,
        /// Context of the original training.
        original_context: usize,
        /// Sines and cosines are multiplied by it.
        attention_factor: f64,
    },
}

impl Rope {
    /// A sequence of so many tokens is rotated otherwise than a shorter one, from its first token on.
    pub fn is_long(&self, length: usize) -> bool {
        matches!(&self.scaling, RopeScaling::LongRope { original_context, .. } if length > *original_context)
    }

    /// Refuses what cannot be computed with `rotated` elements of a head.
    pub(crate) fn check(&self, rotated: usize) -> Result<(), String> {
        positive("theta", self.theta)?;
        match &self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("factor", *factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                positive("factor", *factor)?;
                positive("low_freq_factor", *low_freq_factor)?;
                positive("high_freq_factor", *high_freq_factor)?;
                if high_freq_factor <= low_freq_factor {
                    return Err(format!("high_freq_factor {high_freq_factor} is not above {low_freq_factor}"));
                }
                positive("original_context", *original_context as f64)
            }
            RopeScaling::Factors { factors } => divisors("frequency factors", factors, rotated),
            RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, truncate: _, attention_factor } => {
                positive("factor", *factor)?;
                positive("original_context", *original_context as f64)?;
                positive("beta_fast", *beta_fast)?;
                positive("beta_slow", *beta_slow)?;
                positive("attention_factor", *attention_factor)?;
                // The logarithm of the base divides.
                if self.theta > 1.0 { Ok(()) } else { Err(format!("theta {} is not above 1", self.theta)) }
            }
            RopeScaling::LongRope { short, long, original_context, attention_factor } => {
                divisors("short factors", short, rotated)?;
                divisors("long factors", long, rotated)?;
                positive("original_context", *original_context as f64)?;
                positive("attention_factor", *attention_factor)
            }
        }
    }
}

fn positive(name: &str, x: f64) -> Result<(), String> {
    if x.is_finite() && x > 0.0 { Ok(()) } else { Err(format!("{name} {x} is no positive number")) }
}

fn divisors(name: &str, factors: &[f64], rotated: usize) -> Result<(), String> {
    if factors.len() != rotated / 2 {
        let (found, needed) = (factors.len(), rotated / 2);
        return Err(format!("{found} {name}, {rotated} rotated elements need {needed}"));
    }
    factors.iter().try_for_each(|&x| positive(name, x))
}
