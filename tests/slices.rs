//! Slices of the whole command: each runtime sees its own and no other. GPUs are those of a stand-in for NVIDIA's library: not run on a GPU.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};
use support::process::{children, run};
use support::{Serve, golden, pilotlight, until};
use tempfile::TempDir;

/// `tests/fake-nvml`, built into this folder.
fn stand_in(folder: &Path) -> PathBuf {
    let library = folder.join("libfake-nvml.so");
    let mut rustc = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition", "2024", "--crate-type", "cdylib", "--crate-name", "fake_nvml", "-o"]).arg(&library);
    let (code, _, said) = run(rustc.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake-nvml/lib.rs")));
    assert_eq!(code, Some(0), "{said}");
    library
}

/// A server of the tiny model with this configuration of slices.
fn command(folder: &Path, slices: &str, arguments: &[&str]) -> Command {
    let file = folder.join("pilotlight.toml");
    let snapshot = golden("llama3-tiny", "f32");
    fs::write(&file, format!("{slices}\n[models.tiny]\nsnapshot = {:?}\n", snapshot.display().to_string())).unwrap();
    let mut command = pilotlight();
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--idle", "60s", "--config"]).arg(file);
    command.env_remove("CUDA_VISIBLE_DEVICES").env_remove("NVIDIA_VISIBLE_DEVICES").args(arguments);
    command
}

/// A core that this process may use.
fn a_core() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    list.split([',', '-']).next().unwrap().to_owned()
}

/// A line of `status`, of each thread.
fn of_threads(runtime: u32, key: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{runtime}/task")).unwrap();
    let status = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok());
    status.map(|text| text.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim().to_owned()).collect()
}

#[test]
fn a_runtime_runs_on_the_cores_of_its_slice_and_has_its_memory() {
    let (folder, core) = (TempDir::new().unwrap(), a_core());
    let slices = format!("[[slices]]\nname = \"one\"\ncores = \"{core}\"\nmemory = \"1GiB\"\n");
    let server = Serve::spawn(command(folder.path(), &slices, &[]));
    let core_number = core.parse::<u32>().unwrap();
    let expected =
        json!({"name": "one", "kind": "cpu", "cores": [core_number], "bytes": 1 << 30, "used_bytes": 0, "models": []});
    assert_eq!(server.admin("/slices").json(), json!([expected]));
    let answer = server.post("/v1/completions", &json!({"model": "tiny", "prompt": [1, 2, 3], "max_tokens": 4}));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let runtime = children(server.id())[0];
    let allowed = of_threads(runtime, "Cpus_allowed_list:");
    assert!(allowed.len() > 2 && allowed.iter().all(|list| *list == core), "{allowed:?}");
    let limits = fs::read_to_string(format!("/proc/{runtime}/limits")).unwrap();
    let data = limits.lines().find_map(|line| line.strip_prefix("Max data size")).unwrap();
    assert_eq!(data.split_whitespace().collect::<Vec<_>>(), ["1073741824", "1073741824", "bytes"]);
}

#[test]
fn a_runtime_sees_the_instance_that_it_was_given_and_no_other() {
    let folder = TempDir::new().unwrap();
    let library = stand_in(folder.path());
    let given = "MIG-b5b1ca41-6bcd-5a2e-9e24-1f2f5d2a0704";
    // No runtime becomes ready here, as there is no GPU: a standby is launched, and that is all.
    let mut serve = command(folder.path(), "", &["--device", "cuda", "--standby", "1", "--no-confine"]);
    serve.env("PILOTLIGHT_NVML", library).env("NVIDIA_VISIBLE_DEVICES", given);
    let server = Serve::spawn(serve);
    let slices = server.admin("/slices").json();
    assert_eq!((slices.as_array().unwrap().len(), &slices[0]["device"]), (1, &json!(given)), "{slices}");
    let own = until("a standby with its own environment", || {
        let environment = fs::read(format!("/proc/{}/environ", children(server.id()).first()?)).ok()?;
        let words = environment.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        let mut own: Vec<String> = words.filter(|word| word.contains("_VISIBLE_DEVICES=")).collect();
        own.sort();
        (own.len() == 2).then_some(own)
    });
    assert_eq!(own, [format!("CUDA_VISIBLE_DEVICES={given}"), format!("NVIDIA_VISIBLE_DEVICES={given}")]);
}

#[test]
fn doctor_lists_each_instance() {
    let folder = TempDir::new().unwrap();
    let mut doctor = pilotlight();
    doctor.args(["doctor", "--json"]).env("PILOTLIGHT_NVML", stand_in(folder.path()));
    let (code, out, err) = run(doctor.env_remove("CUDA_VISIBLE_DEVICES").env_remove("NVIDIA_VISIBLE_DEVICES"));
    assert_eq!(code, Some(0), "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    let names: Vec<&str> = report["slices"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert_eq!((names.len(), names[0], names[7]), (8, "cpu", "gpu0-mig6"), "{names:?}");
}

#[test]
fn slices_that_cannot_be_are_64_before_a_port_is_bound() {
    let folder = TempDir::new().unwrap();
    let snapshot = golden("llama3-tiny", "f32").display().to_string();
    let nowhere = format!("[models.other]\nsnapshot = {snapshot:?}\nslices = [\"none\"]\n");
    for (slices, arguments, part) in [
        ("[[slices]]\nname = \"a\"\ncores = \"1023\"\n", &[][..], "no core 1023"),
        ("[[slices]]\nname = \"a\"\ndevice = \"0\"\n", &[], "--device cuda"),
        ("", &["--device", "cuda:1"], "its device 0"),
        (nowhere.as_str(), &[], "model 'other': slices names 'none'"),
    ] {
        let Err((code, said)) = Serve::try_spawn(command(folder.path(), slices, arguments)) else { panic!("{slices}") };
        assert!(code == Some(64) && said.contains(part), "{code:?} {said}");
    }
}
