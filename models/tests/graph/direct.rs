//! The decoder on slices against the graph of tensors, which computes the same with the same kernels: bit for bit.

use crate::golden::{MODELS, cases, pool_on};
use crate::support::Pool;
use burn::tensor::Device;
use kernels::KvFormat;
use models::Weights;

fn bits(rows: &[Vec<f32>]) -> Vec<Vec<u32>> {
    rows.iter().map(|row| row.iter().map(|x| x.to_bits()).collect()).collect()
}

#[test]
fn the_bits_of_the_graph_of_tensors() {
    // Models with experts run as tensors alone: there is nothing to compare.
    for model in MODELS.into_iter().filter(|model| !["mixtral-tiny", "qwen3-moe-tiny"].contains(model)) {
        for (weights, kv) in
            [(Weights::F32, KvFormat::F32), (Weights::Native, KvFormat::F16), (Weights::Native, KvFormat::Q8)]
        {
            let of = |tensors: bool| {
                let restored = pool_on(model, weights, Device::flex()).model.with_kv_format(kv);
                Pool::new(if tensors { restored.on_tensors() } else { restored }, 32)
            };
            let (mut direct, mut tensors) = (of(false), of(true));
            let prompts: Vec<_> = cases(model).into_iter().map(|case| case.prompt_ids).collect();
            for prompt in &prompts {
                let [got, want] = [&mut direct, &mut tensors].map(|pool| pool.all_logits(prompt, 13));
                assert_eq!(bits(&got), bits(&want), "{model}, every row wanted");
            }
            let prompts: Vec<&[u32]> = prompts.iter().map(Vec::as_slice).collect();
            let [got, want] = [&mut direct, &mut tensors].map(|pool| pool.greedy(&prompts, 8, 29));
            for (got, want) in got.iter().zip(&want) {
                assert_eq!(bits(got), bits(want), "{model}, last rows wanted");
            }
        }
    }
}
