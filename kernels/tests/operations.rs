//! The operations through Burn's tensors, as a model uses them.
#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Tensor, TensorData};
use kernels::{
    BLOCK_TOKENS, Error, Format, KvFormat, KvLayer, Matrix, Packing, Scores, Segment, attention, gather, linear,
};
use std::io::Write;

fn wave(count: usize, step: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * step).sin()).collect()
}

fn stored(format: Format, values: &[f32], k: usize) -> Vec<u8> {
    let row_bytes = format.row_bytes(k).unwrap();
    let mut bytes = vec![0; values.len() / k * row_bytes];
    for (row, out) in values.chunks(k).zip(bytes.chunks_mut(row_bytes)) {
        format.quantize_row(row, out);
    }
    bytes
}

fn matrix(format: Format, values: &[f32], k: usize) -> Matrix {
    let bytes = stored(format, values, k);
    Matrix::from_bytes(bytes.into(), format, values.len() / k, k, &Device::flex()).unwrap()
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), &Device::flex())
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

#[test]
fn a_matrix_in_a_mapping_is_not_copied() {
    let (n, k) = (40, 64);
    let bytes = stored(Format::Q4_1, &wave(n * k, 0.3), k);
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[0; 256]).unwrap();
    file.write_all(&bytes).unwrap();
    // SAFETY: nobody else has this file.
    let mapping = unsafe { memmap2::Mmap::map(&file) }.unwrap();
    let start = mapping.as_ptr() as usize + 256;
    let mapped = bytes::Bytes::from_owner(mapping).slice(256..);
    let w = Matrix::from_bytes(mapped, Format::Q4_1, n, k, &Device::flex()).unwrap();
    let x = tensor(wave(3 * k, 0.1), [3, k]);
    let from_mapping = values(linear(x.clone(), &w));
    let from_memory = values(linear(x, &matrix(Format::Q4_1, &wave(n * k, 0.3), k)));
    assert_eq!(from_mapping, from_memory);
    let primitive = w.bytes().clone();
    let primitive = primitive.try_into_primitive::<burn::backend::Flex>();
    assert_eq!(primitive.unwrap().bytes().as_ptr() as usize, start);
}

/// Collects what is announced.
#[derive(Default)]
struct Seen {
    read: std::sync::Mutex<Vec<std::ops::Range<usize>>>,
    gathered: std::sync::Mutex<Vec<std::ops::Range<usize>>>,
}

fn places(bytes: std::ops::Range<*const u8>) -> std::ops::Range<usize> {
    bytes.start as usize..bytes.end as usize
}

impl kernels::watch::Watch for Seen {
    fn about_to_read(&self, bytes: std::ops::Range<*const u8>) {
        self.read.lock().unwrap().push(places(bytes));
    }

    fn about_to_gather(&self, bytes: std::ops::Range<*const u8>) {
        self.gathered.lock().unwrap().push(places(bytes));
    }
}

#[test]
fn every_byte_of_a_weight_is_announced_and_nothing_once_nobody_watches() {
    // One row is left over of a tile, and a packed weight has tiles of its own.
    let (n, k) = (16 * 20 + 1, 256);
    let formats = [Format::F32, Format::BF16, Format::Q4_1, Format::Q8_0, Format::Q4_K];
    let packings = [Packing::Rows, Packing::Tiles16];
    for (format, packing) in formats.into_iter().flat_map(|format| packings.map(|packing| (format, packing))) {
        let taken = packing.bytes(format, n, k).filter(|_| kernels::takes(packing));
        let Some(count) = taken else { continue };
        let bytes = vec![0; count];
        let bytes = bytes::Bytes::from(bytes);
        let all = bytes.as_ptr() as usize..bytes.as_ptr() as usize + bytes.len();
        let w = Matrix::packed(bytes, format, packing, n, k, &Device::flex()).unwrap();
        for rows in [1, 3] {
            let [seen, other] = [(); 2].map(|()| std::sync::Arc::<Seen>::default());
            let watching = kernels::watch::Watching::begin(seen.clone());
            let also = kernels::watch::Watching::begin(other.clone());
            drop(linear(tensor(wave(rows * k, 0.1), [rows, k]), &w));
            drop(watching);
            // Other tests multiply at the same time.
            let of_this = |part: &std::ops::Range<usize>| all.contains(&part.start);
            let drain = |seen: &Seen| -> Vec<_> {
                let mut parts: Vec<_> = seen.read.lock().unwrap().drain(..).filter(of_this).collect();
                parts.sort_by_key(|part| part.start);
                parts
            };
            let parts = drain(&seen);
            assert_eq!(parts, drain(&other), "each is told of all");
            let mut at = all.start;
            for part in &parts {
                assert_eq!(part.start, at, "{format:?} {packing:?}: a gap, or twice");
                at = part.end;
            }
            assert_eq!(at, all.end, "{format:?} {packing:?}");
            assert!(parts.len() > 1, "piece by piece");
            drop(linear(tensor(wave(rows * k, 0.1), [rows, k]), &w));
            assert!(drain(&seen).is_empty() && drain(&other).len() == parts.len(), "one has gone, one is there");
            drop(also);
            check_gather(&w, &all);
        }
    }
}

/// The rows 0, 17 and the last are announced, or what is stored with them, before they are taken out.
fn check_gather(w: &Matrix, all: &std::ops::Range<usize>) {
    let seen = std::sync::Arc::<Seen>::default();
    let watching = kernels::watch::Watching::begin(seen.clone());
    let rows = [0, 17, w.n() - 1];
    drop(gather(w, &rows.map(|row| row as u32)));
    drop(watching);
    let (parts, rows_together) = match w.packing() {
        Packing::Rows => (w.n(), 1),
        Packing::Tiles16 => (w.n().div_ceil(16), 16),
    };
    let part = all.len() / parts;
    let expected = rows.map(|row| all.start + row / rows_together * part).map(|start| start..start + part);
    let found: Vec<_> = seen.gathered.lock().unwrap().drain(..).filter(|part| all.contains(&part.start)).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_transposed_or_sliced_input_is_read_as_it_looks() {
    let k = 32;
    let w = matrix(Format::F32, &wave(5 * k, 0.2), k);
    let x = tensor(wave(k * 6, 0.1), [k, 6]);
    let turned = values(linear(x.clone().transpose(), &w));
    let copied = tensor(values(x.clone().transpose()), [6, k]);
    assert_eq!(turned, values(linear(copied.clone(), &w)));
    let part = copied.clone().slice([2..4, 0..k]);
    let whole = values(linear(copied, &w));
    assert_eq!(values(linear(part, &w)), whole[2 * 5..4 * 5]);
}

#[test]
fn gather_gives_the_rows_that_were_stored() {
    let (n, k) = (9, 64);
    let rows = wave(n * k, 0.17);
    for format in Format::WRITTEN {
        let w = matrix(format, &rows, k);
        let bytes = stored(format, &rows, k);
        let mut expected = vec![0.0; k];
        let got = values(gather(&w, &[8, 0, 8]));
        for (id, got) in [8, 0, 8].into_iter().zip(got.chunks(k)) {
            let row_bytes = format.row_bytes(k).unwrap();
            format.dequantize_row(&bytes[id * row_bytes..][..row_bytes], &mut expected);
            assert_eq!(got, expected);
        }
    }
}

#[test]
#[should_panic(expected = "row 9 of 9")]
fn gather_refuses_a_row_that_is_not_there() {
    gather(&matrix(Format::F32, &wave(9 * 4, 0.1), 4), &[0, 9]);
}

#[test]
fn wrong_shapes_and_lengths_are_named() {
    let device = Device::flex();
    let of = |len: usize, format, n, k| Matrix::from_bytes(vec![0; len].into(), format, n, k, &device).unwrap_err();
    let (format, n) = (Format::Q8_0, 2);
    assert_eq!(of(68, format, n, 33), Error::Block { format, k: 33 });
    let bytes = 67;
    assert_eq!(of(67, format, n, 32), Error::Bytes { format, n, k: 32, bytes });
    assert_eq!(of(0, format, 0, 32), Error::Empty { n: 0, k: 32 });
    let huge = usize::MAX / 32 * 32;
    assert!(matches!(of(4, Format::F32, 2, huge), Error::Block { .. }));
    assert!(matches!(of(34, format, usize::MAX, 32), Error::Bytes { .. }));
}

/// Turns by no angle.
fn still(rows: usize, dim: usize) -> [Tensor<2>; 2] {
    let device = Device::flex();
    [Tensor::ones([rows, dim / 2], &device), Tensor::zeros([rows, dim / 2], &device)]
}

#[test]
fn attention_writes_in_place_and_continues_a_sequence() {
    let (heads, kv_heads, dim, tokens) = (4, 2, 16, BLOCK_TOKENS + 5);
    let device = Device::flex();
    for format in [KvFormat::F32, KvFormat::F16, KvFormat::Q8] {
        let q = tensor(wave(tokens * heads * dim, 0.21), [tokens, heads, dim]);
        let k = tensor(wave(tokens * kv_heads * dim, 0.37), [tokens, kv_heads, dim]);
        let v = tensor(wave(tokens * kv_heads * dim, 0.11), [tokens, kv_heads, dim]);
        let mut kv = KvLayer::new(4, kv_heads, dim, format, &device);
        let segment = |row, rows, position| Segment { row, rows, position, blocks: vec![3, 1] };
        let all = [segment(0, tokens, 0)].into();
        let whole = attention(q.clone(), k.clone(), v.clone(), still(tokens, dim), &mut kv, &all, Scores::scaled(0.25));
        let mut kv = KvLayer::new(4, kv_heads, dim, format, &device);
        let mut parts = Vec::new();
        for (from, to) in [(0, 10), (10, tokens - 1), (tokens - 1, tokens)] {
            let rows = |x: &Tensor<3>| x.clone().narrow(0, from, to - from);
            let segments = [segment(0, to - from, from)];
            let out = attention(
                rows(&q),
                rows(&k),
                rows(&v),
                still(to - from, dim),
                &mut kv,
                &segments.into(),
                Scores::scaled(0.25),
            );
            parts.extend(values(out));
        }
        assert_eq!(values(whole), parts);
    }
}

#[test]
#[should_panic(expected = "block 4 of 4")]
fn attention_refuses_a_block_that_is_not_there() {
    let mut kv = KvLayer::new(4, 1, 8, KvFormat::F32, &Device::flex());
    let one = || tensor(wave(8, 0.1), [1, 1, 8]);
    let segment = Segment { row: 0, rows: 1, position: 0, blocks: vec![4] };
    attention(one(), one(), one(), still(1, 8), &mut kv, &[segment].into(), Scores::scaled(1.0));
}
