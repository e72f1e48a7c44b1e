//! Attention over keys and values in blocks, against the CPU's over the same blocks.

use crate::{assert_close, device, tensor, values, wave};
use burn::tensor::{Device, Tensor};
use kernels::{BLOCK_TOKENS, KvFormat, KvLayer, Scores, Segment, attention};

const HEADS: usize = 4;
const KV_HEADS: usize = 2;
/// No multiple of the units that share it, and more than one part of them.
const DIM: usize = 72;

/// What one device makes of steps of rows, each `(rows, segments)`, one after the other.
fn run(device: &Device, format: KvFormat, scores: Scores, steps: &[(usize, Vec<Segment>)]) -> Vec<Vec<f32>> {
    let mut kv = KvLayer::new(6, KV_HEADS, DIM, format, device);
    let step = |(i, (rows, segments)): (usize, &(usize, Vec<Segment>))| {
        let rows = *rows;
        let of = |heads: usize, step: f32| {
            let all = wave(rows * heads * DIM, step + i as f32 * 0.01);
            tensor::<3>(all.into_iter().map(|x| 3.0 * x).collect(), [rows, heads, DIM], device)
        };
        let turns: [Tensor<2>; 2] = [0.3, 0.4].map(|step| tensor(wave(rows * 16, step), [rows, 16], device));
        let (q, k, v) = (of(HEADS, 0.21), of(KV_HEADS, 0.37), of(KV_HEADS, 0.11));
        values(attention(q, k, v, turns, &mut kv, &segments.clone().into(), scores))
    };
    steps.iter().enumerate().map(step).collect()
}

/// Two sequences, one of them over two blocks and then some, in odd pieces; and a row that belongs to neither.
fn steps() -> Vec<(usize, Vec<Segment>)> {
    let a = |row, rows, position| Segment { row, rows, position, blocks: vec![3, 1, 5] };
    let b = |row, rows, position| Segment { row, rows, position, blocks: vec![2] };
    let long = 2 * BLOCK_TOKENS + 6;
    vec![
        (12, vec![a(0, 7, 0), b(8, 4, 0)]),
        (long - 7, vec![a(0, long - 7, 7)]),
        (3, vec![a(0, 1, long), b(1, 1, 4)]),
        (2, vec![b(0, 1, 5), a(1, 1, long + 1)]),
    ]
}

#[test]
fn every_format_and_window_is_as_on_the_cpu() {
    for (format, tolerance) in [(KvFormat::F32, 2e-5), (KvFormat::F16, 2e-5), (KvFormat::Q8, 1e-3)] {
        for window in [None, Some(19)] {
            let scores = Scores { scale: 0.05, window };
            let want = run(&Device::flex(), format, scores, &steps());
            let got = run(&device(), format, scores, &steps());
            for (step, (got, want)) in got.iter().zip(&want).enumerate() {
                assert_close(got, want, tolerance, &format!("{format:?}, window {window:?}, step {step}"));
            }
        }
    }
}

#[test]
fn a_sequence_has_the_same_bits_in_one_piece_and_in_many() {
    let segment = |rows, position| Segment { row: 0, rows, position, blocks: vec![3, 1, 5] };
    let scores = Scores::scaled(0.05);
    let (device, rows) = (device(), BLOCK_TOKENS + 9);
    let mut layers = [0, 1].map(|_| KvLayer::new(6, KV_HEADS, DIM, KvFormat::F16, &device));
    let input = |heads: usize, step| tensor::<3>(wave(rows * heads * DIM, step), [rows, heads, DIM], &device);
    let (q, k, v) = (input(HEADS, 0.21), input(KV_HEADS, 0.37), input(KV_HEADS, 0.11));
    let mut piece = |layer: usize, from: usize, to: usize| {
        let of = |x: &Tensor<3>| x.clone().narrow(0, from, to - from);
        let turns = [0.3, 0.4].map(|_| tensor::<2>(vec![1.0; (to - from) * 4], [to - from, 4], &device));
        let segments = [segment(to - from, from)].into();
        values(attention(of(&q), of(&k), of(&v), turns, &mut layers[layer], &segments, scores))
    };
    let whole = piece(0, 0, rows);
    let parts = [(0, 5), (5, rows - 1), (rows - 1, rows)].map(|(from, to)| piece(1, from, to)).concat();
    assert!(whole == parts, "the same bits");
}
