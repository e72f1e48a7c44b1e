//! The real model SmolLM2-135M-Instruct against its GGUF dequantised and run in float32 by transformers.

use crate::files;
use crate::golden::sealed_ahead;
use crate::support::{Pool, assert_close, assert_greedy, log_softmax};
use burn::tensor::Device;
use models::{Ahead, Model, Target, Weights};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Mean over the prompts, nats; llama.cpp's own on this file is 0.01 to 0.03.
const MEAN_KL_MAX: f64 = 0.03;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) prompt_ids: Vec<u32>,
    pub(crate) first_top10: Vec<(usize, f64)>,
    first_logsumexp: f64,
    pub(crate) greedy_ids: Vec<u32>,
    pub(crate) greedy_margins: Vec<f64>,
}

pub(crate) fn cases() -> Vec<Case> {
    serde_json::from_value::<Golden>(files::golden_json("smollm2.json")).unwrap().cases
}

fn pool(file: &Path, weights: Weights) -> Pool {
    Pool::new(restored(file, weights, Device::flex()), 32)
}

pub(crate) fn restored(file: &Path, weights: Weights, device: Device) -> Model {
    let scratch = tempfile::tempdir().unwrap();
    let target = if kernels::takes_uploads(&device) { Target::Gpu } else { Target::here() };
    let sealed = sealed(file, weights, target, scratch.path());
    Model::restore_on(&snapshot::Snapshot::open(&sealed).unwrap(), device).unwrap()
}

pub(crate) fn sealed(file: &Path, weights: Weights, target: Target, folder: &Path) -> PathBuf {
    sealed_ahead(file, weights, target, &Ahead::default(), folder)
}

#[test]
fn float32_logits_and_greedy_ids() {
    let Some(file) = files::smollm2() else { return };
    let mut pool = pool(&file, Weights::F32);
    for (index, case) in cases().iter().enumerate() {
        let steps = pool.greedy(&[&case.prompt_ids], case.greedy_ids.len(), 512);
        for &(token, want) in &case.first_top10 {
            assert_close(steps[0][0][token], want, 2e-3, &format_args!("case {index}, token {token}"));
        }
        assert_greedy(&steps[0], &case.greedy_ids, &case.greedy_margins, 0.01, "float32");
    }
}

#[test]
fn native_logprobs_greedy_ids_and_divergence() {
    let Some(file) = files::smollm2() else { return };
    let mut pool = pool(&file, Weights::Native);
    let cases = cases();
    let mut divergence = 0.0;
    for (index, case) in cases.iter().enumerate() {
        let steps = pool.greedy(&[&case.prompt_ids], case.greedy_ids.len(), 512);
        let got = log_softmax(&steps[0][0]);
        for &(token, logit) in &case.first_top10[..5] {
            let want = logit - case.first_logsumexp;
            assert_close(got[token], want, 0.35, &format_args!("case {index}, token {token}"));
        }
        assert_greedy(&steps[0], &case.greedy_ids, &case.greedy_margins, 0.5, "native");
        divergence += top10_divergence(case, &got) / cases.len() as f64;
    }
    println!("mean KL divergence over the reference's top ten: {divergence:.4} nats");
    assert!(divergence <= MEAN_KL_MAX, "{divergence} nats");
}

/// KL(reference ‖ ours) over the reference's ten best tokens, both renormalised to them.
fn top10_divergence(case: &Case, got: &[f32]) -> f64 {
    let want: Vec<f32> = case.first_top10.iter().map(|&(_, logit)| logit as f32).collect();
    let got: Vec<f32> = case.first_top10.iter().map(|&(token, _)| got[token]).collect();
    let (want, got) = (log_softmax(&want), log_softmax(&got));
    want.iter().zip(&got).map(|(&w, &g)| f64::from(w).exp() * f64::from(w - g)).sum()
}
