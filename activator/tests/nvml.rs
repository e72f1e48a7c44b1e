//! The inventory of GPUs, as this crate asks for it, over a stand-in for NVIDIA's library (`tests/fake-nvml`): not run on a GPU.
//!
//! What the stand-in reports stands in this process's environment, so each other shape is a process of its own: this program, once more, as the
//! test [`inside`] in a role.
#![allow(clippy::unwrap_used)]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use activator::slices::{
    DeviceEnvironment, Slice, SliceEntry, SliceError, SliceKind, inventory,
    nvml::{self, NvmlError, Parts},
};

const ROLE: &str = "ACTIVATOR_TEST_NVML";
const LIBRARY: &str = "ACTIVATOR_TEST_NVML_LIBRARY";

/// The stand-in, built once a run.
static STAND_IN: LazyLock<PathBuf> = LazyLock::new(|| match env::var_os(LIBRARY) {
    Some(built) => built.into(),
    None => build(),
});

fn build() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fake-nvml/lib.rs");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    fs::create_dir_all(folder).unwrap();
    // Another run may be using the file of this name: it keeps its own.
    let (unfinished, library) =
        (folder.join(format!("fake-nvml.{}.so", std::process::id())), folder.join("libfake-nvml.so"));
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition", "2024", "--crate-type", "cdylib", "--crate-name", "fake_nvml", "-o"]);
    let built = rustc.arg(&unfinished).arg(source).output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    fs::rename(unfinished, &library).unwrap();
    library
}

fn slices(entries: &[SliceEntry], nvidia: Option<&str>) -> Result<Vec<Slice>, SliceError> {
    let environment = DeviceEnvironment { nvidia: nvidia.map(Into::into), cuda: None };
    inventory(entries, &environment, true, Some(&STAND_IN))
}

fn devices(slices: &[Slice]) -> Vec<&str> {
    let devices = slices.iter().map(|slice| match &slice.kind {
        SliceKind::Gpu { device, .. } => device.as_str(),
        SliceKind::Cpu { .. } => panic!("{slice:?}"),
    });
    devices.collect()
}

fn mig(instance: u32) -> String {
    format!("MIG-b5b1ca41-6bcd-5a2e-9e24-1f2f5d2a070{instance}")
}

const GPU: &str = "GPU-3c5a81ff-0d3e-4b1a-8f16-7c2f9d1e0a0";
const INSTANCE_BYTES: u64 = 9_984 << 20;
const WHOLE_BYTES: u64 = (81_559 - 544) << 20;

#[test]
fn each_instance_of_a_gpu_in_mig_mode_is_a_slice() {
    let found = slices(&[], None).unwrap();
    assert_eq!(devices(&found), (0..7).map(mig).collect::<Vec<_>>());
    assert_eq!((found[6].name.as_str(), found[6].bytes), ("gpu0-mig6", INSTANCE_BYTES));
    assert!(
        found.iter().all(|slice| matches!(&slice.kind, SliceKind::Gpu { whole, .. } if *whole == format!("{GPU}0")))
    );
}

#[test]
fn a_device_plugin_gives_two_of_them() {
    let found = slices(&[], Some(&format!("{},{}", mig(5), mig(2)))).unwrap();
    assert_eq!(devices(&found), [mig(2), mig(5)]);
    let said = slices(&[], Some("MIG-0")).unwrap_err().to_string();
    assert!(said.contains("NVIDIA_VISIBLE_DEVICES: there is no device MIG-0") && said.contains(&mig(0)), "{said}");
}

#[test]
fn instances_may_be_configured_and_shared_by_their_bytes() {
    let entry = |name: &str, device: &str, memory| SliceEntry {
        name: name.into(),
        device: Some(device.into()),
        memory,
        cores: None,
    };
    let shared = [entry("a", "0:3", Some(5 << 30)), entry("b", &mig(3), Some(4 << 30)), entry("c", "0:0", None)];
    let found = slices(&shared, Some("none")).unwrap();
    assert_eq!(devices(&found), [mig(3), mig(3), mig(0)], "what is configured counts more than the environment");
    assert_eq!(found.iter().map(|slice| slice.bytes).collect::<Vec<_>>(), [5 << 30, 4 << 30, INSTANCE_BYTES]);
    let said = slices(&[entry("a", "0:3", Some(INSTANCE_BYTES + 1))], None).unwrap_err().to_string();
    assert!(said.contains(&mig(3)) && said.contains(&INSTANCE_BYTES.to_string()), "{said}");
}

#[test]
fn other_shapes_are_reported_as_they_are() {
    for shape in ["whole", "lost", "gone"] {
        let mut this = Command::new(env::current_exe().unwrap());
        this.args(["--exact", "inside", "--nocapture"]).env(ROLE, shape).env("FAKE_NVML", shape);
        let output = this.env(LIBRARY, &*STAND_IN).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{shape}: {}", String::from_utf8_lossy(&said));
    }
}

#[test]
fn a_library_that_is_not_there_is_no_fault() {
    let none = nvml::gpus(Some(Path::new("/nowhere/libnvidia-ml.so"))).unwrap_err();
    assert!(matches!(none, NvmlError::Unavailable { .. }) && none.to_string().contains("/nowhere/"), "{none}");
}

/// No test of its own: what is seen of another shape.
#[test]
fn inside() {
    match env::var(ROLE).as_deref() {
        Ok("whole") => whole(),
        Ok("lost") => lost(),
        Ok("gone") => gone(),
        _ => {}
    }
}

fn whole() {
    let found = slices(&[], None).unwrap();
    assert_eq!(devices(&found), [format!("{GPU}0"), format!("{GPU}2")]);
    assert_eq!((found[1].name.as_str(), found[1].bytes), ("gpu1", WHOLE_BYTES));
    assert_eq!(devices(&slices(&[], Some("1,0")).unwrap()).len(), 2);
    assert_eq!(devices(&slices(&[], Some("1")).unwrap()), [format!("{GPU}2")]);
}

fn lost() {
    let said = slices(&[], None).unwrap_err().to_string();
    assert!(said.contains("nvmlDeviceGetHandleByIndex_v2 of GPU 1 failed"), "{said}");
    assert!(said.contains("fell off the bus"), "{said}");
    // Who is given another one does not suffer from it.
    assert_eq!(devices(&slices(&[], Some(&format!("{GPU}2"))).unwrap()), [format!("{GPU}2")]);
    let gpus = nvml::gpus(Some(&STAND_IN)).unwrap();
    let fine = gpus.iter().flatten().map(|gpu| (gpu.index, gpu.parts.clone())).collect::<Vec<_>>();
    assert_eq!(fine, [(0, Parts::Whole(WHOLE_BYTES)), (2, Parts::Whole(WHOLE_BYTES))]);
}

fn gone() {
    let said = slices(&[], Some("MIG-1")).unwrap_err().to_string();
    assert!(said.contains("MIG-1") && said.contains("driver is not loaded") && said.contains("[[slices]]"), "{said}");
}
