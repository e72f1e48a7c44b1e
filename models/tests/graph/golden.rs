//! `llama3-tiny`, imported, sealed and restored, against what transformers computed in float32.

use crate::files;
use crate::support::{Pool, assert_close, assert_greedy, log_softmax};
use models::{Model, SealOptions, Source, Weights};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    prompt_ids: Vec<u32>,
    last_logits: Vec<f64>,
    top5_per_position: Vec<Vec<(usize, f64)>>,
    positions: Vec<usize>,
    greedy_ids: Vec<u32>,
    greedy_margins: Vec<f64>,
}

fn cases() -> Vec<Case> {
    serde_json::from_value::<Golden>(files::golden_json("llama3-tiny/golden.json")).unwrap().cases
}

fn pool(weights: Weights) -> Pool {
    let scratch = tempfile::tempdir().unwrap();
    let sealed = scratch.path().join("llama3-tiny.snapshot");
    let options = SealOptions { model: "llama3-tiny".into(), weights };
    models::seal(&Source::open(&files::golden("llama3-tiny")).unwrap(), &sealed, &options, &mut |_, _| {}).unwrap();
    Pool::new(Model::restore(&snapshot::Snapshot::open(&sealed).unwrap()).unwrap(), 32)
}

#[test]
fn float32_logits_at_every_position() {
    let mut pool = pool(Weights::F32);
    for (index, case) in cases().iter().enumerate() {
        for chunk in [case.prompt_ids.len(), 13] {
            let got = pool.all_logits(&case.prompt_ids, chunk);
            for (&position, top5) in case.positions.iter().zip(&case.top5_per_position) {
                for &(token, want) in top5 {
                    let what = format_args!("case {index}, position {position}, token {token}");
                    assert_close(got[position][token], want, 2e-3, &what);
                }
            }
            for (token, (&got, &want)) in got[got.len() - 1].iter().zip(&case.last_logits).enumerate() {
                assert_close(got, want, 2e-3, &format_args!("case {index}, last position, token {token}"));
            }
        }
    }
}

#[test]
fn float32_greedy_ids() {
    let mut pool = pool(Weights::F32);
    for case in cases() {
        let steps = pool.greedy(&[&case.prompt_ids], case.greedy_ids.len(), 13);
        assert_greedy(&steps[0], &case.greedy_ids, &case.greedy_margins, 0.01, "float32");
    }
}

#[test]
fn native_logprobs_and_greedy_ids() {
    let mut pool = pool(Weights::Native);
    for (index, case) in cases().iter().enumerate() {
        let steps = pool.greedy(&[&case.prompt_ids], case.greedy_ids.len(), 13);
        let got = log_softmax(&steps[0][0]);
        let want: Vec<f32> = case.last_logits.iter().map(|&l| l as f32).collect();
        let want = log_softmax(&want);
        for &(token, _) in case.top5_per_position.last().unwrap() {
            assert_close(got[token], f64::from(want[token]), 0.35, &format_args!("case {index}, token {token}"));
        }
        assert_greedy(&steps[0], &case.greedy_ids, &case.greedy_margins, 0.5, "native");
    }
}

#[test]
fn decoding_together_gives_the_same_bits_as_alone() {
    for weights in [Weights::F32, Weights::Native] {
        let mut pool = pool(weights);
        let cases = cases();
        let prompts: Vec<&[u32]> = cases.iter().map(|c| c.prompt_ids.as_slice()).collect();
        let together = pool.greedy(&prompts, 24, 32);
        for (prompt, together) in prompts.iter().zip(&together) {
            let alone = pool.greedy(&[prompt], 24, prompt.len());
            assert!(&alone[0] == together, "{weights:?}");
        }
    }
}
