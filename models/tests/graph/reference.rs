//! Random models of odd shapes against the naive float64 one, and against themselves in other company.

use crate::naive;
use crate::random::{self, odd_config};
use crate::support::{Pool, Rows, Sequence, Wanted, assert_close};
use kernels::Format;
use models::{ModelConfig, Rope, RopeScaling};

/// Float32 arithmetic over a few layers.
const F32_TOLERANCE: f64 = 2e-4;
/// Keys and values in half precision.
const HALF_KV_ERROR: f64 = 2e-3;
/// Activations in 8 bits as well, for weights in blocks.
const BLOCK_ERROR: f64 = 0.05;

/// Logits of 75 tokens in one chunk, and what they should be with the weights as `format` rounds them.
fn logits(config: &ModelConfig, format: Format) -> (Vec<Vec<f32>>, Vec<Vec<f64>>) {
    let tensors = random::tensors(config, 7);
    let ids = random::ids(config, 75, 11);
    let want = naive::logits(config, &random::rounded(config, &tensors, format), &ids);
    let mut pool = Pool::new(random::model(config, &tensors, format), 8);
    (pool.all_logits(&ids, ids.len()), want)
}

fn check(config: &ModelConfig) {
    let (got, want) = logits(config, Format::F32);
    for (position, (got, want)) in got.iter().zip(&want).enumerate() {
        for (token, (&got, &want)) in got.iter().zip(want).enumerate() {
            assert_close(got, want, F32_TOLERANCE, &format_args!("position {position}, token {token}"));
        }
    }
}

#[test]
fn odd_untied_model_in_float32() {
    check(&odd_config());
}

#[test]
fn tied_model_with_three_kv_heads_and_linear_scaling() {
    let rope = Rope { theta: 500.0, scaling: RopeScaling::Linear { factor: 2.5 } };
    let config = ModelConfig { heads: 6, kv_heads: 3, head_dim: 14, tied_embedding: true, rope, ..odd_config() };
    check(&config);
}

#[test]
fn llama3_scaling_over_short_middle_and_long_wavelengths() {
    let scaling =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_context: 64 };
    let rope = Rope { theta: 100_000.0, scaling };
    check(&ModelConfig { rope, ..odd_config() });
}

#[test]
fn frequencies_divided_one_by_one() {
    let scaling = RopeScaling::Factors { factors: (0..10).map(|i| 1.0 + f64::from(i) * 0.7).collect() };
    let rope = Rope { theta: 1000.0, scaling };
    check(&ModelConfig { rope, ..odd_config() });
}

#[test]
fn every_head_its_own_keys() {
    check(&ModelConfig { heads: 7, kv_heads: 7, head_dim: 6, ..odd_config() });
}

#[test]
fn every_stored_format() {
    let config =
        ModelConfig { hidden_size: 96, intermediate_size: 160, heads: 4, kv_heads: 2, head_dim: 24, ..odd_config() };
    for (format, allowed) in [
        (Format::F16, HALF_KV_ERROR),
        (Format::BF16, HALF_KV_ERROR),
        (Format::Q8_0, BLOCK_ERROR),
        (Format::Q4_0, BLOCK_ERROR),
        (Format::Q4_1, BLOCK_ERROR),
    ] {
        let (got, want) = logits(&config, format);
        let error = relative_error(&got, &want);
        assert!(error < allowed, "{format:?}: {error:.1e} of the logits' length");
    }
}

/// Length of the difference over the length of what is expected, over all positions.
fn relative_error(got: &[Vec<f32>], want: &[Vec<f64>]) -> f64 {
    let pairs = || got.iter().flatten().zip(want.iter().flatten());
    let difference: f64 = pairs().map(|(&got, want)| (f64::from(got) - want).powi(2)).sum();
    let length: f64 = pairs().map(|(_, want)| want.powi(2)).sum();
    (difference / length).sqrt()
}

/// Each position's logits have the same bits in one chunk, in odd chunks, token by token, and among other sequences.
#[test]
fn company_and_chunking_do_not_change_a_bit() {
    let config =
        ModelConfig { hidden_size: 96, intermediate_size: 160, heads: 4, kv_heads: 2, head_dim: 24, ..odd_config() };
    let tensors = random::tensors(&config, 3);
    for format in [Format::F32, Format::BF16, Format::Q8_0, Format::Q4_1] {
        let mut pool = Pool::new(random::model(&config, &tensors, format), 16);
        let ids = random::ids(&config, 75, 5);
        let alone = pool.all_logits(&ids, ids.len());
        for chunk in [1, 7, 33] {
            assert!(pool.all_logits(&ids, chunk) == alone, "{format:?} in chunks of {chunk}");
        }
        assert!(among_others(&mut pool, &ids) == alone, "{format:?} among others");
    }
}

/// Logits of `ids` in uneven chunks, each step shared with a decoding sequence before and a prefilling one behind it.
fn among_others(pool: &mut Pool, ids: &[u32]) -> Vec<Vec<f32>> {
    let [mut first, mut middle, mut last] = [const { Sequence::new() }; 3];
    let mut rows = Vec::new();
    let mut rest = ids;
    for chunk in (1..).step_by(3) {
        let (tokens, after) = rest.split_at(chunk.min(rest.len()));
        if tokens.is_empty() {
            break;
        }
        rest = after;
        let logits = pool.step(&mut [
            Rows { sequence: &mut first, tokens: &[chunk as u32], wanted: Wanted::Last },
            Rows { sequence: &mut middle, tokens, wanted: Wanted::All },
            Rows { sequence: &mut last, tokens: &ids[..chunk], wanted: Wanted::None },
        ]);
        rows.extend((0..tokens.len()).map(|i| logits.row(1 + i).to_vec()));
    }
    for sequence in [first, middle, last] {
        pool.release(sequence);
    }
    rows
}
