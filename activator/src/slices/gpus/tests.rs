//! What is made of NVML's reports; the library itself, as a stand-in, is asked in `tests/nvml.rs`.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::slices::nvml::Instance;

fn whole(index: u32) -> Result<Gpu, NvmlError> {
    Ok(Gpu { index, uuid: format!("GPU-{index}a"), parts: Parts::Whole(80) })
}

fn split(index: u32, instances: &[u32]) -> Result<Gpu, NvmlError> {
    let instance = |place: &u32| Instance { index: *place, uuid: format!("MIG-{index}a-{place}"), bytes: 10 };
    let parts = Parts::Instances(instances.iter().map(instance).collect());
    Ok(Gpu { index, uuid: format!("GPU-{index}a"), parts })
}

fn lost() -> NvmlError {
    NvmlError::Call { call: "nvmlDeviceGetUUID", device: "GPU 1".into(), why: "it is lost".into() }
}

fn none() -> NvmlError {
    NvmlError::Unavailable { library: "libnvidia-ml.so.1".into(), why: "no such file".into() }
}

fn devices(slices: Result<Vec<Slice>, SliceError>) -> Result<Vec<String>, String> {
    let device = |slice: Slice| match slice.kind {
        SliceKind::Gpu { device, .. } => device,
        SliceKind::Cpu { .. } => panic!("{slice:?}"),
    };
    slices.map(|slices| slices.into_iter().map(device).collect()).map_err(|error| error.to_string())
}

fn seen(gpus: &[Result<Gpu, NvmlError>], nvidia: Option<&str>, cuda: Option<&str>) -> Result<Vec<String>, String> {
    let environment = DeviceEnvironment { nvidia: nvidia.map(Into::into), cuda: cuda.map(Into::into) };
    devices(found(Ok(gpus.to_vec()), &environment))
}

fn entry(name: &str, device: &str, memory: Option<u64>) -> SliceEntry {
    SliceEntry { name: name.into(), cores: None, memory, device: Some(device.into()) }
}

#[test]
fn instances_of_split_gpus_and_other_gpus_whole_are_slices_with_names_that_stay() {
    let slices = found(Ok(vec![whole(0), split(1, &[0, 2])]), &DeviceEnvironment::default()).unwrap();
    let names: Vec<_> = slices.iter().map(|slice| (slice.name.as_str(), slice.bytes)).collect();
    assert_eq!(names, [("gpu0", 80), ("gpu1-mig0", 10), ("gpu1-mig2", 10)]);
    let kind = SliceKind::Gpu { device: "MIG-1a-2".into(), whole: "GPU-1a".into() };
    assert_eq!(slices[2].kind, kind);
}

#[test]
fn the_environment_keeps_back_what_it_does_not_name() {
    let gpus = [whole(0), split(1, &[0, 1, 2])];
    for (nvidia, cuda, expected) in [
        (Some("MIG-1a-1,MIG-1a-0"), None, &["MIG-1a-0", "MIG-1a-1"][..]),
        (None, Some("1:2,0"), &["GPU-0a", "MIG-1a-2"]),
        (Some("GPU-1a"), None, &["MIG-1a-0", "MIG-1a-1", "MIG-1a-2"]),
        (Some("1"), Some("MIG-1a-0"), &["MIG-1a-0"]),
        (Some("GPU-0"), Some("all"), &["GPU-0a"]),
    ] {
        assert_eq!(seen(&gpus, nvidia, cuda).unwrap(), expected, "{nvidia:?} {cuda:?}");
    }
    for (nvidia, cuda, part) in [
        (Some("none"), None, "NVIDIA_VISIBLE_DEVICES keeps back"),
        (None, Some(""), "CUDA_VISIBLE_DEVICES keeps back"),
        (None, Some("7"), "no device 7"),
        (None, Some("GPU-7"), "GPU-0a, MIG-1a-0"),
        (None, Some("MIG-1a"), "several devices begin with MIG-1a"),
        (Some("GPU-0a"), Some("MIG-1a-0"), "none can be used"),
    ] {
        let said = seen(&gpus, nvidia, cuda).unwrap_err();
        assert!(said.contains(part), "{nvidia:?} {cuda:?}: {said}");
    }
}

#[test]
fn indices_of_the_machine_around_a_container_are_those_that_were_let_in() {
    assert_eq!(seen(&[whole(0)], Some("5"), None).unwrap(), ["GPU-0a"]);
    assert_eq!(seen(&[split(0, &[0, 1])], Some("3:1,3:2"), None).unwrap(), ["MIG-0a-0", "MIG-0a-1"]);
    // CUDA's own count from within.
    assert!(seen(&[whole(0)], None, Some("5")).is_err());
}

#[test]
fn a_gpu_that_fails_is_an_error_to_who_could_have_got_it() {
    let gpus = [whole(0), Err(lost()), whole(2)];
    assert_eq!(seen(&gpus, None, Some("GPU-2a")).unwrap(), ["GPU-2a"]);
    for (nvidia, cuda) in [(None, None), (None, Some("1")), (Some("GPU-1a"), None)] {
        let said = seen(&gpus, nvidia, cuda).unwrap_err();
        assert!(said.contains("nvmlDeviceGetUUID of GPU 1") && said.contains("it is lost"), "{said}");
    }
}

#[test]
fn without_nvml_what_to_configure_is_said() {
    let said = |nvidia: Option<&str>| {
        let environment = DeviceEnvironment { nvidia: nvidia.map(Into::into), cuda: None };
        found(Err(none()), &environment).unwrap_err().to_string()
    };
    for (nvidia, part) in [(Some("MIG-1,MIG-2"), "memory MIG-1, MIG-2 has"), (None, "libnvidia-ml.so.1")] {
        let said = said(nvidia);
        assert!(said.contains(part) && said.contains("[[slices]]") && said.contains("no such file"), "{said}");
    }
    let both = [entry("a", "MIG-1", Some(5)), entry("b", "3", Some(6))];
    let slices = configured(&both, &Err(none())).unwrap();
    assert_eq!(devices(Ok(slices)).unwrap(), ["MIG-1", "3"]);
    let said = configured(&[entry("a", "GPU-1", None)], &Err(none())).unwrap_err().to_string();
    assert!(said.contains("'a' needs memory") && said.contains("no such file"), "{said}");
}

#[test]
fn configured_shares_of_a_gpu_are_not_more_than_it() {
    let gpus = Ok(vec![whole(0), split(1, &[0, 1])]);
    let shares = |one, other| configured(&[entry("a", "0", one), entry("b", "GPU-0", other)], &gpus);
    assert_eq!(devices(shares(Some(30), Some(50))).unwrap(), ["GPU-0a", "GPU-0a"]);
    let much = SliceError::TooMuch { of: "GPU-0a".into(), together: 81, there: 80 };
    assert_eq!(shares(Some(31), Some(50)), Err(much));
    assert_eq!(shares(Some(31), None), Err(SliceError::ShareWithoutMemory("b".into())));
    let alone = configured(&[entry("a", "1:1", None), entry("b", "MIG-1a-0", Some(4))], &gpus).unwrap();
    assert_eq!(alone.iter().map(|slice| slice.bytes).collect::<Vec<_>>(), [10, 4]);
    for (device, part) in [("1", "MIG-1a-0, MIG-1a-1"), ("GPU-1a", "in MIG mode"), ("MIG-9", "no device MIG-9")] {
        let said = configured(&[entry("a", device, None)], &gpus).unwrap_err().to_string();
        assert!(said.contains(part) && said.contains("slice 'a'"), "{device}: {said}");
    }
}
