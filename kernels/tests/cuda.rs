//! Uploads to a CUDA device, against the stand-in for the driver (`tests/fake-cuda`), whose copies take their time. `scripts/check-cuda` builds it
//! and runs this; it was not run on a GPU.
#![allow(missing_docs, clippy::unwrap_used)]

mod uploads;

use burn::tensor::{Device, DeviceType};

#[test]
fn every_byte_arrives() {
    assert!(!Device::enumerate(DeviceType::Cuda).is_empty(), "no CUDA device: run scripts/check-cuda");
    uploads::every_byte_arrives(&Device::cuda(0));
}
