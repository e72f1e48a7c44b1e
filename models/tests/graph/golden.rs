//! Every golden folder, imported, sealed and restored, against what transformers computed in float32.

use crate::files;
use crate::support::{Pool, assert_close, assert_greedy, log_softmax};
use burn::tensor::Device;
use models::{Ahead, Model, SealOptions, Source, Target, Weights};
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
pub(crate) struct Case {
    pub(crate) prompt_ids: Vec<u32>,
    last_logits: Vec<f64>,
    top5_per_position: Vec<Vec<(usize, f64)>>,
    positions: Vec<usize>,
    pub(crate) greedy_ids: Vec<u32>,
    pub(crate) greedy_margins: Vec<f64>,
}

/// One small model of each architecture there is a folder for.
pub(crate) const MODELS: [&str; 8] = [
    "llama3-tiny",
    "mistral-tiny",
    "mixtral-tiny",
    "qwen2-tiny",
    "qwen3-tiny",
    "qwen3-moe-tiny",
    "gemma3-tiny",
    "phi3-tiny",
];

pub(crate) fn cases(model: &str) -> Vec<Case> {
    serde_json::from_value::<Golden>(files::golden_json(&format!("{model}/golden.json"))).unwrap().cases
}

fn pool(model: &str, weights: Weights) -> Pool {
    pool_on(model, weights, Device::flex())
}

pub(crate) fn pool_on(model: &str, weights: Weights, device: Device) -> Pool {
    let target = if kernels::takes_uploads(&device) { Target::Gpu } else { Target::here() };
    let scratch = tempfile::tempdir().unwrap();
    let sealed = sealed_for(model, weights, target, scratch.path());
    Pool::new(Model::restore_on(&snapshot::Snapshot::open(&sealed).unwrap(), device).unwrap(), 32)
}

pub(crate) fn sealed_for(model: &str, weights: Weights, target: Target, folder: &Path) -> PathBuf {
    sealed_ahead(&files::golden(model), weights, target, &Ahead::default(), folder)
}

pub(crate) fn sealed_ahead(source: &Path, weights: Weights, target: Target, ahead: &Ahead, folder: &Path) -> PathBuf {
    let sealed = folder.join("model.snapshot");
    let options = SealOptions { model: "model".into(), weights, target, encrypt: None, guests: None };
    let source = Source::open(source).unwrap();
    models::seal_ahead(&source, &sealed, &options, ahead, &mut |_, _| {}).unwrap();
    sealed
}

#[test]
fn float32_logits_at_every_position() {
    for model in MODELS {
        let mut pool = pool(model, Weights::F32);
        for (index, case) in cases(model).iter().enumerate() {
            for chunk in [case.prompt_ids.len(), 13] {
                check_logits(&mut pool, case, chunk, &format!("{model}, case {index}"));
            }
        }
    }
}

pub(crate) fn check_logits(pool: &mut Pool, case: &Case, chunk: usize, what: &str) {
    let got = pool.all_logits(&case.prompt_ids, chunk);
    for (&position, top5) in case.positions.iter().zip(&case.top5_per_position) {
        for &(token, want) in top5 {
            let what = format_args!("{what}, position {position}, token {token}");
            assert_close(got[position][token], want, 2e-3, &what);
        }
    }
    for (token, (&got, &want)) in got[got.len() - 1].iter().zip(&case.last_logits).enumerate() {
        assert_close(got, want, 2e-3, &format_args!("{what}, last position, token {token}"));
    }
}

#[test]
fn float32_greedy_ids() {
    for model in MODELS {
        let mut pool = pool(model, Weights::F32);
        for case in cases(model) {
            let steps = pool.greedy(&[&case.prompt_ids], case.greedy_ids.len(), 13);
            assert_greedy(&steps[0], &case.greedy_ids, &case.greedy_margins, 0.01, model);
        }
    }
}

#[test]
fn native_logprobs_and_greedy_ids() {
    for model in MODELS {
        let mut pool = pool(model, Weights::Native);
        for (index, case) in cases(model).iter().enumerate() {
            let steps = pool.greedy(&[&case.prompt_ids], case.greedy_ids.len(), 13);
            let got = log_softmax(&steps[0][0]);
            let want: Vec<f32> = case.last_logits.iter().map(|&l| l as f32).collect();
            let want = log_softmax(&want);
            for &(token, _) in case.top5_per_position.last().unwrap() {
                let what = format_args!("{model}, case {index}, token {token}");
                assert_close(got[token], f64::from(want[token]), 0.35, &what);
            }
            assert_greedy(&steps[0], &case.greedy_ids, &case.greedy_margins, 0.5, model);
        }
    }
}

#[test]
fn decoding_together_gives_the_same_bits_as_alone() {
    for (model, weights) in MODELS.into_iter().flat_map(|m| [(m, Weights::F32), (m, Weights::Native)]) {
        let mut pool = pool(model, weights);
        let cases = cases(model);
        let prompts: Vec<&[u32]> = cases.iter().map(|c| c.prompt_ids.as_slice()).collect();
        let together = pool.greedy(&prompts, 24, 32);
        for (prompt, together) in prompts.iter().zip(&together) {
            let alone = pool.greedy(&[prompt], 24, prompt.len());
            assert!(&alone[0] == together, "{model}, {weights:?}");
        }
    }
}
