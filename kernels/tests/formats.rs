//! Formats that are only read, against what the `gguf` package makes of the same bytes (`data/make_formats.py`).
#![allow(clippy::unwrap_used)]

use burn::tensor::{Device, Tensor, TensorData};
use kernels::{Format, Matrix, gather, linear};
use serde_json::Value;

struct Case {
    format: Format,
    bytes: Vec<u8>,
    values: Vec<f32>,
}

fn cases() -> Vec<Case> {
    let file: Value = serde_json::from_str(include_str!("data/formats.json")).unwrap();
    let case = |(name, case): (&String, &Value)| {
        let hex = case["bytes"].as_str().unwrap();
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        Case {
            format: Format::from_name(name).unwrap(),
            bytes: (0..hex.len()).step_by(2).map(byte).collect(),
            values: case["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect(),
        }
    };
    file.as_object().unwrap().iter().map(case).collect()
}

#[test]
fn every_format_that_is_only_read_has_a_case_and_reads_as_the_reference_does() {
    let cases = cases();
    assert_eq!(cases.len(), Format::ALL.len() - Format::WRITTEN.len());
    for Case { format, bytes, values } in cases {
        let mut got = vec![0.0; values.len()];
        format.dequantize_row(&bytes, &mut got);
        for (i, (got, want)) in got.iter().zip(&values).enumerate() {
            assert!((got - want).abs() <= 1e-6 * want.abs().max(1.0), "{format:?} element {i}: {got}, not {want}");
        }
    }
}

/// Multiplying unpacks rows and is then what it is for float32: the same bits, for few rows and for many.
#[test]
fn linear_and_gather_are_those_of_the_unpacked_weights() {
    let device = Device::flex();
    for Case { format, bytes, .. } in cases() {
        let k = format.block_elements();
        let n = bytes.len() / format.block_bytes();
        let mut values = vec![0.0; n * k];
        format.dequantize_row(&bytes, &mut values);
        let floats: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let packed = Matrix::from_bytes(bytes.into(), format, n, k, &device).unwrap();
        let plain = Matrix::from_bytes(floats.into(), Format::F32, n, k, &device).unwrap();
        for rows in [1, 7, 40] {
            let x: Vec<f32> = (0..rows * k).map(|i| (i as f32 * 0.37).sin()).collect();
            let x = Tensor::<2>::from_data(TensorData::new(x, [rows, k]), &device);
            let (a, b) = (linear(x.clone(), &packed).into_data(), linear(x, &plain).into_data());
            assert_eq!(a, b, "{format:?}, {rows} rows");
        }
        let ids: Vec<u32> = (0..n as u32).rev().collect();
        assert_eq!(gather(&packed, &ids).into_data(), gather(&plain, &ids).into_data(), "{format:?}");
    }
}
