//! The operations on a Vulkan device, against the formats' reference conversions and the CPU's operations. `scripts/check-vulkan`
//! runs them on a device made of software; they were not run on a GPU.
#![allow(missing_docs, clippy::unwrap_used)]

mod attention;
mod between;
mod matrices;
mod uploads;

use burn::tensor::{Device, DeviceKind, Tensor, TensorData};

fn device() -> Device {
    Device::vulkan(DeviceKind::DefaultDevice)
}

fn wave(count: usize, step: f32) -> Vec<f32> {
    (0..count).map(|i| (i as f32 * step).sin()).collect()
}

fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

/// `|got - want| ≤ tolerance × max(1, |want|)` for each.
fn assert_close(got: &[f32], want: &[f32], tolerance: f32, what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let allowed = tolerance * want.abs().max(1.0);
        assert!((got - want).abs() <= allowed, "{what}, element {i}: {got} where {want} is expected");
    }
}
