//! A model's restore onto a CUDA device, against the stand-in for the driver (`tests/fake-cuda`): whether anybody writes what the device still reads,
//! and what every kernel compiles to. Kernels are not run there, so nothing here looks at what they compute, and nothing was run
//! on a GPU. `scripts/check-cuda` builds the stand-in and runs this.

use crate::golden::{MODELS, cases, sealed_ahead, sealed_for};
use crate::support::Pool;
use crate::{files, smollm2};
use burn::tensor::Device;
use kernels::KvFormat;
use kernels::compiled::compiled;
use models::{Ahead, ComputeDevice, Model, Target, Weights, adopt_kernels};
use snapshot::Snapshot;
use std::ffi::OsStr;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// What is counted is the whole process's.
static ALONE: Mutex<()> = Mutex::new(());

const FIRST: ComputeDevice = ComputeDevice::Cuda(0);

fn device() -> Device {
    FIRST.open().expect("run scripts/check-fake-cuda")
}

/// Modules that were loaded into the stand-in.
fn loaded() -> usize {
    // SAFETY: the stand-in's function has this type.
    unsafe {
        let ask = cudarc::driver::sys::culib().get::<unsafe extern "C" fn() -> usize>(b"fakeCudaLoaded\0");
        ask.expect("the stand-in, not a driver")()
    }
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

/// Another process of the same program on a device of the same architecture compiles nothing of a model that was sealed with its kernels; on one
/// of another architecture it compiles all of them.
#[test]
fn kernels_that_were_sealed_are_not_compiled_again() {
    const SEALED: &str = "PILOTLIGHT_TEST_SEALED";
    const NAME: &str = "cuda::kernels_that_were_sealed_are_not_compiled_again";
    if let Some(sealed) = std::env::var_os(SEALED) {
        return the_other_process(&sealed);
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let scratch = tempfile::tempdir().unwrap();
    let ahead = Ahead { kernels: Some(FIRST), prefix: None };
    let here: u32 = std::env::var("FAKE_CUDA_ARCH").map_or(90, |words| words.parse().unwrap());
    let tiny = (files::golden("llama3-tiny"), Weights::Q4);
    for (source, weights) in [tiny].into_iter().chain(files::smollm2().map(|file| (file, Weights::Native))) {
        let sealed = sealed_ahead(&source, weights, Target::Gpu, &ahead, scratch.path());
        for architecture in [here, 170 - here] {
            let mut other = Command::new(std::env::current_exe().unwrap());
            other.args(["--exact", NAME, "--nocapture"]).env(SEALED, &sealed).env_remove("FAKE_CUDA_PTX");
            other.env("FAKE_CUDA_ARCH", architecture.to_string()).env(SAME, (architecture == here).to_string());
            let output = other.output().unwrap();
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said);
            assert!(output.status.success(), "{} on sm_{architecture}: {said}", source.display());
        }
    }
}

/// Whether the other process's device is as the one for which was sealed.
const SAME: &str = "PILOTLIGHT_TEST_SAME_ARCHITECTURE";

fn the_other_process(sealed: &OsStr) {
    let snapshot = Snapshot::open(sealed.as_ref()).unwrap();
    let adopted = adopt_kernels(&snapshot, FIRST).unwrap();
    assert_eq!(compiled().len(), adopted, "what was adopted is there");
    let mut pool = Pool::new(Model::restore_on(&snapshot, device()).unwrap(), 32);
    let long: Vec<u32> = cases("llama3-tiny")[0].prompt_ids.iter().copied().cycle().take(70).collect();
    // Alone, together, whole and in pieces.
    pool.greedy(&[&long[..5]], 2, 512);
    pool.greedy(&[&long[..64], &long[..1], &long], 3, 33);
    assert!(loaded() > 5, "{} kernels were launched", loaded());
    match std::env::var(SAME).unwrap().parse().unwrap() {
        true => assert_eq!(compiled().len(), adopted, "nothing was compiled beside what was adopted"),
        false => {
            assert_eq!(adopted, 0, "kernels for another architecture are left alone");
            assert!(compiled().len() >= loaded(), "{} were compiled", compiled().len());
        }
    }
    let (count, what) = misuse();
    assert_eq!(count, 0, "{what}");
}
