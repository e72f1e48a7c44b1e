//! Matrices in every format.

use crate::{assert_close, device, tensor, values, wave};
use burn::tensor::Device;
use kernels::{Format, Gate, Matrix, Norm, Packing, TILE_ROWS, gather, linear, linear_add, norm_gate, norm_linear_3};

/// Blocks of a format that is only read, out of the file of cases; written ones are made.
fn blocks(format: Format) -> Vec<u8> {
    if Format::WRITTEN.contains(&format) {
        let k = 4 * format.block_elements().max(16);
        let mut bytes = vec![0; format.row_bytes(k).unwrap()];
        format.quantize_row(&wave(k, 0.37), &mut bytes);
        return bytes;
    }
    let file: serde_json::Value = serde_json::from_str(include_str!("../data/formats.json")).unwrap();
    let hex = file[format.name()]["bytes"].as_str().unwrap();
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

/// Bytes of a matrix whose rows are blocks in turn, and its numbers.
fn stored(format: Format, n: usize, k: usize) -> (Vec<u8>, Vec<f32>) {
    let blocks = blocks(format);
    let each = k / format.block_elements();
    let cycle: Vec<&[u8]> = blocks.chunks(format.block_bytes()).collect();
    let bytes = (0..n * each).flat_map(|i| cycle[(i + i / each) % cycle.len()]).copied().collect::<Vec<u8>>();
    let mut numbers = vec![0.0; n * k];
    let row_bytes = format.row_bytes(k).unwrap();
    for (bytes, numbers) in bytes.chunks(row_bytes).zip(numbers.chunks_mut(k)) {
        format.dequantize_row(bytes, numbers);
    }
    (bytes, numbers)
}

fn matrix(format: Format, n: usize, k: usize, device: &Device) -> Matrix {
    Matrix::from_bytes(stored(format, n, k).0.into(), format, n, k, device).unwrap()
}

/// `x [m, k] · w [n, k]ᵀ`, and the sum of the products' magnitudes: what roundings are to be measured by.
fn products(x: &[f32], w: &[f32], k: usize) -> Vec<(f64, f64)> {
    let dot = |x: &[f32], w: &[f32]| {
        let terms = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
        terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
    };
    x.chunks(k).flat_map(|x| w.chunks(k).map(move |w| dot(x, w))).collect()
}

#[test]
fn linear_and_gather_in_every_format() {
    let device = device();
    for format in Format::ALL {
        // Floats in rows that are no whole words and no whole fours.
        let (n, k) = (5, if format.block_elements() == 1 { 69 } else { 2 * format.block_elements() });
        let (_, numbers) = stored(format, n, k);
        let w = matrix(format, n, k, &device);
        for m in [1, 6] {
            let x = wave(m * k, 0.37);
            let got = values(linear(tensor(x.clone(), [m, k], &device), &w));
            for (got, (want, size)) in got.into_iter().zip(products(&x, &numbers, k)) {
                let off = (f64::from(got) - want).abs();
                assert!(off <= 4e-7 * size, "{format:?}, {m} rows: {got}, not {want}, off by {:.1e}", off / size);
            }
        }
        let rows: Vec<f32> = [4, 0, 4].into_iter().flat_map(|id| numbers[id * k..][..k].to_vec()).collect();
        // A scale times a number plus an offset may be rounded once or twice.
        assert_close(&values(gather(&w, &[4, 0, 4])), &rows, 2e-6, &format!("gather of {format:?}"));
    }
}

#[test]
fn a_row_has_the_same_bits_in_any_company() {
    let device = device();
    let (m, n, k) = (6, 33, 288);
    for format in [Format::Q4_1, Format::BF16] {
        let w = matrix(format, n, k, &device);
        let x = tensor(wave(m * k, 0.73), [m, k], &device);
        let together = values(linear(x.clone(), &w));
        for row in 0..m {
            let alone = values(linear(x.clone().slice([row..row + 1, 0..k]), &w));
            assert_eq!(alone, together[row * n..][..n], "{format:?}, row {row}");
        }
    }
}

#[test]
fn tiles_are_unpacked() {
    let (n, k) = (TILE_ROWS, 64);
    let (rows, _) = stored(Format::Q8_0, n, k);
    let mut tile = vec![0; Packing::Tiles16.bytes(Format::Q8_0, n, k).unwrap()];
    Packing::Tiles16.pack(Format::Q8_0, k, &rows, &mut tile);
    let device = device();
    let tiles = Matrix::packed(tile.into(), Format::Q8_0, Packing::Tiles16, n, k, &device).unwrap();
    assert_eq!(tiles.packing(), Packing::Rows);
    let rows = matrix(Format::Q8_0, n, k, &device);
    assert_eq!(values(gather(&tiles, &[3, 15])), values(gather(&rows, &[3, 15])));
}

#[test]
fn what_stands_together_is_what_it_is_on_the_cpu() {
    let (m, k) = (6, 64);
    let results = [Device::flex(), device()].map(|device| {
        let x = tensor(wave(m * k, 0.31), [m, k], &device);
        let norm = Norm { weight: tensor(wave(k, 0.77), [k], &device), eps: 1e-5 };
        let [a, b] = [9, 5].map(|n| matrix(Format::F32, n, k, &device));
        let c = matrix(Format::F16, 9, k, &device);
        let three = norm_linear_3(x.clone(), norm.clone(), [&a, &b, &c]);
        let silu = norm_gate(x.clone(), norm.clone(), [&a, &c], Gate::Silu);
        let gelu = norm_gate(x.clone(), norm, [&a, &c], Gate::GeluTanh);
        let added = linear_add(x, &a, tensor(wave(m * 9, 0.9), [m, 9], &device));
        three.into_iter().chain([silu, gelu, added]).map(values).collect::<Vec<_>>()
    });
    for (i, (want, got)) in results[0].iter().zip(&results[1]).enumerate() {
        assert_close(got, want, 1e-5, &format!("result {i}"));
    }
}
