//! The golden models on a Vulkan device: the same graphs, snapshots and tolerances as on the CPU. `scripts/check-vulkan` runs them
//! on a device made of software; they were not run on a GPU.

use crate::golden::{MODELS, cases, check_logits, pool_on};
use crate::support::assert_greedy;
use burn::tensor::{Device, DeviceKind};
use models::Weights;

fn device() -> Device {
    Device::vulkan(DeviceKind::DefaultDevice)
}

/// One case of each, in pieces that do not end with a block.
#[test]
fn float32_logits_and_greedy_ids() {
    for model in MODELS {
        let mut pool = pool_on(model, Weights::F32, device());
        let case = &cases(model)[0];
        check_logits(&mut pool, case, 13, model);
        let steps = pool.greedy(&[&case.prompt_ids], 6, 32);
        assert_greedy(&steps[0], &case.greedy_ids[..6], &case.greedy_margins, 0.01, model);
    }
}

/// Keys and values in 16 bits, weights as the files have them.
#[test]
fn native_weights_greedy_ids() {
    for model in ["llama3-tiny", "qwen2-tiny"] {
        let mut pool = pool_on(model, Weights::Native, device());
        let case = &cases(model)[0];
        let steps = pool.greedy(&[&case.prompt_ids], 6, 32);
        assert_greedy(&steps[0], &case.greedy_ids[..6], &case.greedy_margins, 0.5, model);
    }
}
