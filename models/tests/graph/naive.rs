//! A Llama written a second time, as plainly as possible: float64, one loop per sum, the whole prefix anew for every
//! prompt. It shares no code with the graph under test, so that agreement means something.

use models::{ModelConfig, RopeScaling};
use std::collections::BTreeMap;

/// Canonical tensor names → values, row by row.
pub type Tensors = BTreeMap<String, Vec<f32>>;

/// Logits after each of `ids`.
pub fn logits(config: &ModelConfig, tensors: &Tensors, ids: &[u32]) -> Vec<Vec<f64>> {
    let mut stream: Vec<Vec<f64>> = ids.iter().map(|&id| embed(config, tensors, id)).collect();
    for layer in 0..config.layers {
        let weight = |part: &str| &tensors[&format!("model.layers.{layer}.{part}.weight")];
        let normed: Vec<_> = stream.iter().map(|x| norm(x, weight("input_layernorm"), config.rms_norm_eps)).collect();
        let mixed = attention(config, &weight, &normed);
        for (x, mixed) in stream.iter_mut().zip(&mixed) {
            add(x, &project(weight("self_attn.o_proj"), mixed));
            let y = norm(x, weight("post_attention_layernorm"), config.rms_norm_eps);
            let gate = project(weight("mlp.gate_proj"), &y);
            let up = project(weight("mlp.up_proj"), &y);
            let inner: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect();
            add(x, &project(weight("mlp.down_proj"), &inner));
        }
    }
    let head = if config.tied_embedding { "model.embed_tokens.weight" } else { "lm_head.weight" };
    let last_norm = &tensors["model.norm.weight"];
    stream.iter().map(|x| project(&tensors[head], &norm(x, last_norm, config.rms_norm_eps))).collect()
}

fn embed(config: &ModelConfig, tensors: &Tensors, id: u32) -> Vec<f64> {
    let start = id as usize * config.hidden_size;
    let row = &tensors["model.embed_tokens.weight"][start..start + config.hidden_size];
    row.iter().map(|&v| f64::from(v)).collect()
}

/// For each position, the heads' outputs side by side.
fn attention<'a>(config: &ModelConfig, weight: &dyn Fn(&str) -> &'a Vec<f32>, xs: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let dim = config.head_dim;
    let heads = |part: &str, rotated: bool| -> Vec<Vec<Vec<f64>>> {
        let of = |(position, x): (usize, &Vec<f64>)| {
            let flat = project(weight(part), x);
            let turn = |head: &[f64]| if rotated { rotate(config, head, position) } else { head.to_vec() };
            flat.chunks(dim).map(turn).collect()
        };
        xs.iter().enumerate().map(of).collect()
    };
    let (q, k, v) =
        (heads("self_attn.q_proj", true), heads("self_attn.k_proj", true), heads("self_attn.v_proj", false));
    let group = config.heads / config.kv_heads;
    let mut out = vec![vec![0.0; config.heads * dim]; xs.len()];
    for position in 0..xs.len() {
        for head in 0..config.heads {
            let score = |p: usize| dot(&q[position][head], &k[p][head / group]) / (dim as f64).sqrt();
            let scores: Vec<f64> = (0..=position).map(score).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (p, weight) in weights.iter().enumerate() {
                for d in 0..dim {
                    out[position][head * dim + d] += weight / total * v[p][head / group][d];
                }
            }
        }
    }
    out
}

/// Element `i` and element `i + dim/2` are the two coordinates of pair `i`.
fn rotate(config: &ModelConfig, head: &[f64], position: usize) -> Vec<f64> {
    let half = head.len() / 2;
    let mut out = head.to_vec();
    for i in 0..half {
        let plain = 1.0 / config.rope.theta.powf(2.0 * i as f64 / head.len() as f64);
        let angle = position as f64 * scaled(plain, i, &config.rope.scaling);
        out[i] = head[i] * angle.cos() - head[i + half] * angle.sin();
        out[i + half] = head[i + half] * angle.cos() + head[i] * angle.sin();
    }
    out
}

/// Llama 3's bands are written by wavelength, as the reference describes them.
fn scaled(frequency: f64, pair: usize, scaling: &RopeScaling) -> f64 {
    match scaling {
        RopeScaling::None => frequency,
        RopeScaling::Linear { factor } => frequency / factor,
        RopeScaling::Factors { factors } => frequency / factors[pair],
        RopeScaling::LongRope { .. } | RopeScaling::Yarn { .. } => {
            unreachable!("not among the configurations tested here")
        }
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
            let context = *original_context as f64;
            let wavelength = 2.0 * std::f64::consts::PI / frequency;
            if wavelength < context / high_freq_factor {
                frequency
            } else if wavelength > context / low_freq_factor {
                frequency / factor
            } else {
                let smooth = (context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                (1.0 - smooth) * frequency / factor + smooth * frequency
            }
        }
    }
}

fn norm(x: &[f64], weight: &[f32], eps: f64) -> Vec<f64> {
    let mean_square = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    x.iter().zip(weight).map(|(v, &w)| v / (mean_square + eps).sqrt() * f64::from(w)).collect()
}

fn project(weight: &[f32], x: &[f64]) -> Vec<f64> {
    weight.chunks(x.len()).map(|row| row.iter().zip(x).map(|(&w, v)| f64::from(w) * v).sum()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
