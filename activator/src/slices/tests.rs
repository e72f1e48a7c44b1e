#![allow(clippy::unwrap_used)]

use super::*;
use serde_json::json;

fn entry(name: &str) -> SliceEntry {
    SliceEntry { name: name.into(), ..SliceEntry::default() }
}

fn on_cores(name: &str, cores: &str) -> SliceEntry {
    SliceEntry { cores: Some(cores.into()), ..entry(name) }
}

fn on_device(name: &str, device: &str) -> SliceEntry {
    SliceEntry { device: Some(device.into()), ..entry(name) }
}

#[test]
fn what_cannot_be_is_said_without_looking_at_the_machine() {
    let both = SliceEntry { cores: Some("0".into()), ..on_device("a", "GPU-1") };
    for (entries, part) in [
        (vec![entry("a b")], "'a b'"),
        (vec![entry("")], "1 to 200"),
        (vec![entry("a"), entry("a")], "'a' is given twice"),
        (vec![SliceEntry { memory: Some(0), ..entry("a") }], "memory must be above 0"),
        (vec![both], "name one of both"),
        (vec![on_device("a", "cuda:0")], "\"cuda:0\" is no device"),
        (vec![on_cores("a", "0-x")], "slice 'a': \"0-x\""),
        (vec![on_cores("a", "0-2"), on_cores("b", "2")], "core 2 is on the slices 'a' and 'b'"),
        (vec![on_cores("a", "0"), entry("b")], "'b' names no cores"),
        (vec![entry("a"), on_device("b", "GPU-1")], "'a' is of the CPU and 'b' of a GPU"),
    ] {
        let said = check(&entries).unwrap_err().to_string();
        assert!(said.contains(part), "{entries:?}: {said}");
    }
    assert_eq!(check(&[on_cores("a", "0-2"), on_cores("b", "3,5")]), Ok(()));
    assert_eq!(check(&[on_device("a", "GPU-1"), on_device("b", "GPU-1")]), Ok(()));
}

#[test]
fn slices_are_of_what_runtimes_compute_on() {
    let made = |entry, wants_gpu| inventory(&[entry], &DeviceEnvironment::default(), wants_gpu, None);
    assert_eq!(made(on_device("a", "GPU-1"), false), Err(SliceError::NotOnGpus("a".into())));
    assert_eq!(made(entry("a"), true), Err(SliceError::OnGpus("a".into())));
}

#[test]
fn without_anything_said_the_machine_is_one_slice_that_bounds_nothing() {
    let slices = inventory(&[], &DeviceEnvironment::default(), false, None).unwrap();
    assert_eq!((slices.len(), slices[0].name.as_str()), (1, "cpu"));
    assert_eq!(slices[0].bytes, Machine::here().memory_bytes);
    assert!(slices[0].arguments().is_empty() && slices[0].environment().is_empty());
}

#[test]
fn a_runtime_is_told_its_slice_and_no_other() {
    let cpu = Slice { name: "a".into(), kind: SliceKind::Cpu { cores: vec![0, 1, 2, 8] }, bytes: 4096, limited: true };
    assert_eq!(cpu.arguments(), ["--cores", "0-2,8", "--memory-limit", "4096"]);
    assert!(cpu.environment().is_empty());
    let gpu = |device: &str| Slice {
        name: "g".into(),
        kind: SliceKind::Gpu { device: device.into(), whole: String::new() },
        bytes: 4096,
        limited: false,
    };
    assert!(gpu("MIG-1").arguments().is_empty(), "bytes of a GPU are no bytes of the machine's memory");
    assert_eq!(gpu("MIG-1").environment(), [("CUDA_VISIBLE_DEVICES", "MIG-1"), ("NVIDIA_VISIBLE_DEVICES", "MIG-1")]);
    assert!(gpu("2").environment().contains(&("CUDA_DEVICE_ORDER", "PCI_BUS_ID")));
}

#[test]
fn json_has_all_that_there_is_to_say() {
    let cpu = Slice { name: "cpu".into(), kind: SliceKind::Cpu { cores: vec![1] }, bytes: u64::MAX, limited: false };
    assert_eq!(serde_json::to_value(&cpu).unwrap(), json!({"name": "cpu", "kind": "cpu", "cores": [1], "bytes": null}));
    let kind = SliceKind::Gpu { device: "MIG-1".into(), whole: "GPU-1".into() };
    let gpu = Slice { name: "g".into(), kind, bytes: 7, limited: false };
    let expected = json!({"name": "g", "kind": "gpu", "device": "MIG-1", "whole": "GPU-1", "bytes": 7});
    assert_eq!(serde_json::to_value(&gpu).unwrap(), expected);
}
