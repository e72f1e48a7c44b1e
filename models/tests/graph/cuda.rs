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

/// What another process of the same program is told: which snapshot, and what of its device is as that for which it was sealed.
const SEALED: &str = "PILOTLIGHT_TEST_SEALED";
const ALIKE: &str = "PILOTLIGHT_TEST_ALIKE";

/// A process of this very program that runs one test, with variables of its own; what it said where it failed.
fn another(test: &str, variables: &[(&str, &str)], without: &[&str]) -> Result<(), String> {
    let mut other = Command::new(std::env::current_exe().unwrap());
    other
        .args(["--exact", test, "--include-ignored", "--nocapture"])
        .envs(variables.iter().copied())
        .env_remove("FAKE_CUDA_PTX");
    for name in without {
        other.env_remove(name);
    }
    let output = other.output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

/// A process on a device of the same architecture and driver compiles nothing of a model that was sealed with its kernels, and needs no CUDA toolkit for
/// it; on one of another architecture, or with another driver, it compiles all of them.
#[test]
fn kernels_that_were_sealed_are_not_compiled_again() {
    const NAME: &str = "cuda::kernels_that_were_sealed_are_not_compiled_again";
    if let Some(sealed) = std::env::var_os(SEALED) {
        return the_other_process(&sealed);
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let here = std::env::var("FAKE_CUDA_ARCH").unwrap_or_else(|_| "90".into());
    let there = if here == "90" { "80" } else { "90" };
    let tiny = (files::golden("llama3-tiny"), "q4");
    for (source, weights) in [tiny].into_iter().chain(files::smollm2().map(|file| (file, "native"))) {
        let scratch = tempfile::tempdir().unwrap();
        let source = source.to_str().unwrap();
        let to = scratch.path().to_str().unwrap();
        another("cuda::seals_with_its_kernels", &[(SOURCE, source), (WEIGHTS, weights), (FOLDER, to)], &[]).unwrap();
        let sealed = scratch.path().join("model.snapshot");
        let sealed = (SEALED, sealed.to_str().unwrap());
        let toolkit = &["CUDA_PATH", "CUDA_HOME"];
        let alike = [sealed, (ALIKE, "true"), ("FAKE_CUDA_ARCH", &here)];
        another(NAME, &alike, toolkit).unwrap_or_else(|said| panic!("{source}: {said}"));
        for strange in [("FAKE_CUDA_ARCH", there), ("FAKE_CUDA_VERSION", "12090")] {
            let variables = [sealed, (ALIKE, "false"), strange];
            another(NAME, &variables, &[]).unwrap_or_else(|said| panic!("{source}, {strange:?}: {said}"));
            // What is compiled needs the toolkit: so the one above has compiled nothing.
            let said = another(NAME, &variables, toolkit).expect_err("kernels are compiled without a toolkit");
            assert!(said.contains("libdevice"), "{source}: {said}");
        }
    }
}

/// In a process of its own, so that nothing but the model's kernels is there.
const SOURCE: &str = "PILOTLIGHT_TEST_SOURCE";
const WEIGHTS: &str = "PILOTLIGHT_TEST_WEIGHTS";
const FOLDER: &str = "PILOTLIGHT_TEST_FOLDER";

#[test]
#[ignore = "a part of the test above"]
fn seals_with_its_kernels() {
    let source = std::env::var_os(SOURCE).expect("which model");
    let weights = if std::env::var(WEIGHTS).unwrap() == "q4" { Weights::Q4 } else { Weights::Native };
    let ahead = Ahead { kernels: Some(FIRST), prefix: None };
    sealed_ahead(source.as_ref(), weights, Target::Gpu, &ahead, std::env::var_os(FOLDER).unwrap().as_ref());
}

fn the_other_process(sealed: &OsStr) {
    let snapshot = Snapshot::open(sealed.as_ref()).unwrap();
    let device = device();
    let adopted = adopt_kernels(&snapshot, FIRST).unwrap();
    let mut pool = Pool::new(Model::restore_on(&snapshot, device).unwrap(), 32);
    let long: Vec<u32> = cases("llama3-tiny")[0].prompt_ids.iter().copied().cycle().take(70).collect();
    // Alone, together, whole and in pieces.
    pool.greedy(&[&long[..5]], 2, 512);
    pool.greedy(&[&long[..64], &long[..1], &long], 3, 33);
    let (all, loaded) = (compiled().kernels.len(), loaded());
    assert!(loaded > 5, "{loaded} kernels were launched");
    match std::env::var(ALIKE).unwrap().parse().unwrap() {
        true => assert!(adopted >= loaded && all == adopted, "{adopted} adopted, {loaded} loaded, {all} there"),
        false => assert!(adopted == 0 && all >= loaded, "{adopted} adopted, {loaded} loaded, {all} there"),
    }
    let (count, what) = misuse();
    assert_eq!(count, 0, "{what}");
}
