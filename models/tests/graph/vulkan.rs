//! The golden models on a Vulkan device: the same graphs, snapshots and tolerances as on the CPU. `scripts/check-vulkan` runs them
//! on a device made of software; they were not run on a GPU.

use crate::golden::{MODELS, cases, check_logits, pool_on, sealed_for};
use crate::support::{Pool, assert_close, assert_greedy};
use crate::{files, smollm2};
use burn::tensor::{Device, DeviceKind};
use kernels::KvFormat;
use models::{Model, Target, Weights};
use snapshot::Snapshot;

fn device() -> Device {
    Device::vulkan(DeviceKind::DefaultDevice)
}

#[test]
fn float32_logits_and_greedy_ids() {
    for model in MODELS {
        let mut pool = pool_on(model, Weights::F32, device());
        for (index, case) in cases(model).iter().enumerate() {
            for chunk in [case.prompt_ids.len(), 13] {
                check_logits(&mut pool, case, chunk, &format!("{model}, case {index}"));
            }
            let steps = pool.greedy(&[&case.prompt_ids], case.greedy_ids.len(), 13);
            assert_greedy(&steps[0], &case.greedy_ids, &case.greedy_margins, 0.01, model);
        }
    }
}

/// Keys and values in 16 bits, weights as the files have them.
#[test]
fn native_weights_greedy_ids() {
    for model in MODELS {
        let mut pool = pool_on(model, Weights::Native, device());
        for case in &cases(model) {
            let steps = pool.greedy(&[&case.prompt_ids], case.greedy_ids.len(), 13);
            assert_greedy(&steps[0], &case.greedy_ids, &case.greedy_margins, 0.5, model);
        }
    }
}

#[test]
fn decoding_together_gives_the_same_bits_as_alone() {
    for model in ["llama3-tiny", "gemma3-tiny"] {
        let mut pool = pool_on(model, Weights::Native, device());
        let cases = cases(model);
        let prompts: Vec<&[u32]> = cases.iter().map(|c| c.prompt_ids.as_slice()).collect();
        let together = pool.greedy(&prompts, 8, 32);
        for (prompt, together) in prompts.iter().zip(&together) {
            let alone = pool.greedy(&[prompt], 8, prompt.len());
            assert!(&alone[0] == together, "{model}");
        }
    }
}

/// Blocks are multiplied with activations in float32 there, so the real model in Q4_1 is as near to the reference as it is in
/// float32 on the CPU.
#[test]
fn smollm2_in_blocks() {
    let Some(file) = files::smollm2() else { return };
    let model = smollm2::restored(&file, Weights::Native, device()).with_kv_format(KvFormat::F32);
    let mut pool = Pool::new(model, 8);
    let case = &smollm2::cases()[0];
    let steps = pool.greedy(&[&case.prompt_ids], 2, 512);
    for &(token, want) in &case.first_top10 {
        assert_close(steps[0][0][token], want, 2e-3, &format_args!("token {token}"));
    }
    assert_greedy(&steps[0], &case.greedy_ids[..2], &case.greedy_margins, 0.01, "SmolLM2");
}

/// Laid out for this processor, weights are laid out anew on their way: the same bits.
#[test]
fn weights_for_a_processor_are_taken_as_well() {
    let scratch = tempfile::tempdir().unwrap();
    let mut logits = Vec::new();
    for target in [Target::Gpu, Target::here()] {
        let sealed = sealed_for("llama3-tiny", Weights::Native, target, scratch.path());
        let model = Model::restore_on(&Snapshot::open(&sealed).unwrap(), device()).unwrap();
        logits.push(Pool::new(model, 32).greedy(&[&cases("llama3-tiny")[0].prompt_ids], 4, 512));
    }
    assert!(logits[0] == logits[1]);
}

/// A model of several chunks: what is damaged is in the last.
#[test]
fn weights_arrive_verified_or_not_at_all() {
    let Some(file) = files::smollm2() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let sealed = smollm2::sealed(&file, Weights::Native, Target::Gpu, scratch.path());
    let restored = || Model::restore_on(&Snapshot::open(&sealed).unwrap(), device()).unwrap();
    restored().uploading().expect("weights are brought").wait().unwrap();

    let mut bytes = std::fs::read(&sealed).unwrap();
    let at = Snapshot::open(&sealed).unwrap().tensors().last().unwrap().range().end as usize - 1;
    bytes[at] ^= 1;
    std::fs::remove_file(&sealed).unwrap();
    std::fs::write(&sealed, bytes).unwrap();
    let model = restored();
    let error = model.uploading().expect("weights are brought").wait().unwrap_err().to_string();
    assert!(error.contains("checksum mismatch"), "{error}");
    // A pass ends all the same.
    Pool::new(model, 8).greedy(&[&[1, 2, 3]], 1, 512);
}
