//! A model's restore onto a CUDA device, against the stand-in for the driver (`tests/fake-cuda`): whether anybody writes what the device still reads,
//! and what every kernel compiles to. Kernels are not run there, so nothing here looks at what they compute, and nothing was run
//! on a GPU. `scripts/check-cuda` builds the stand-in and runs this.

use crate::golden::{MODELS, cases, sealed_for};
use crate::support::Pool;
use crate::{files, smollm2};
use burn::tensor::{Device, DeviceType};
use kernels::KvFormat;
use models::{Model, Target, Weights};
use snapshot::Snapshot;
use std::sync::{Mutex, PoisonError};

/// What is counted is the whole process's.
static ALONE: Mutex<()> = Mutex::new(());

fn device() -> Device {
    assert!(!Device::enumerate(DeviceType::Cuda).is_empty(), "no CUDA device: run scripts/check-cuda");
    Device::cuda(0)
}

/// What the stand-in found.
fn misuse() -> (usize, String) {
    let mut text = vec![0u8; 4096];
    // SAFETY: the stand-in's function has this type, and writes at most so many bytes.
    let count = unsafe {
        let ask =
            cudarc::driver::sys::culib().get::<unsafe extern "C" fn(*mut u8, usize) -> usize>(b"fakeCudaMisuse\0");
        ask.expect("the stand-in, not a driver")(text.as_mut_ptr(), text.len())
    };
    (count, String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned())
}

/// The real model, in the pieces of its file, while it is already asked.
#[test]
fn nothing_is_written_that_the_device_still_reads() {
    let Some(file) = files::smollm2() else { return };
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let scratch = tempfile::tempdir().unwrap();
    let sealed = smollm2::sealed(&file, Weights::Native, Target::Gpu, scratch.path());
    let model = Model::restore_on(&Snapshot::open(&sealed).unwrap(), device()).unwrap();
    let uploading = model.uploading().expect("weights are brought").clone();
    Pool::new(model, 8).greedy(&[&[1, 2, 3]], 2, 512);
    uploading.wait().unwrap();
    let (count, what) = misuse();
    assert_eq!(count, 0, "{what}");
}

/// A pass of every kind of model and of every format: its kernels are compiled and loaded, and `scripts/check-cuda` hands them to `ptxas`.
#[test]
fn every_kernel_compiles() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let scratch = tempfile::tempdir().unwrap();
    for model in MODELS {
        for weights in [Weights::F32, Weights::Bf16, Weights::Q8, Weights::Q4] {
            let sealed = sealed_for(model, weights, Target::Gpu, scratch.path());
            for kv_format in [KvFormat::F32, KvFormat::F16, KvFormat::Q8] {
                let model = Model::restore_on(&Snapshot::open(&sealed).unwrap(), device()).unwrap();
                let mut pool = Pool::new(model.with_kv_format(kv_format), 32);
                pool.greedy(&[&cases("llama3-tiny")[0].prompt_ids[..5]], 2, 512);
            }
        }
    }
    let (count, what) = misuse();
    assert_eq!(count, 0, "{what}");
}
