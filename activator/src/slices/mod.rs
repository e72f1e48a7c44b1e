//! Slices: pieces of devices that runtimes are put on. A MIG instance, a whole GPU, a time-sliced share of one, or cores and bytes of the CPU.
//!
//! ```text
//! configured ([[slices]])     checked against what is there
//! else, runtimes on GPUs      what NVML reports, less what the environment keeps back (device plugins, containers)
//! else                        one slice: the machine
//! ```
//! **Invariant:** the inventory is made once, when `serve` starts. Names are unique; no core, no instance and no byte is counted twice.
//! A runtime sees its slice alone: it is told its cores and memory as arguments, its GPU by the environment.
//! **Absent:** making or removing MIG instances, MPS; bounding a GPU's memory from outside (a share of a GPU is what its runtimes keep to).

pub mod cores;
mod cpu;
mod gpus;
pub mod nvml;
pub mod visible;

use std::{collections::BTreeSet, ffi::OsString, path::Path};

use serde::{Serialize, Serializer};

use crate::machine::Machine;
use cores::Cores;
use nvml::NvmlError;
pub use visible::DeviceEnvironment;
use visible::Named;

/// A piece of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Slice {
    /// Its name; unique.
    pub name: String,
    /// Of what.
    #[serde(flatten)]
    pub kind: SliceKind,
    /// Its memory; `u64::MAX` (null in JSON) where nothing bounds it.
    #[serde(serialize_with = "bounded")]
    pub bytes: u64,
    /// Its bytes are fewer than the machine's, and each runtime on it is held to them. Never of a GPU, whose bytes are none of the machine's.
    #[serde(skip)]
    pub limited: bool,
}

/// What a slice is a piece of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum SliceKind {
    /// The processor and its memory.
    Cpu {
        /// Empty: all.
        cores: Vec<usize>,
    },
    /// A GPU, or a part of one.
    Gpu {
        /// What `CUDA_VISIBLE_DEVICES` is to say: `GPU-…`, `MIG-…`, or an index where nobody knows more.
        device: String,
        /// The physical GPU's `GPU-…`; empty where it is not known.
        whole: String,
    },
}

/// As configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SliceEntry {
    /// What models call it.
    pub name: String,
    /// Of the CPU, like `0-3,8`; `None`: all, or it is no slice of the CPU.
    pub cores: Option<String>,
    /// In bytes.
    pub memory: Option<u64>,
    /// A GPU or an instance of one: `GPU-…`, `MIG-…`, or an index; `None`: it is a slice of the CPU.
    pub device: Option<String>,
}

/// What is wrong with slices.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SliceError {
    /// Names are labels.
    #[error("the slice name '{0}' must have 1 to 200 printable characters without blanks")]
    BadName(String),
    /// Two slices of one name.
    #[error("the slice name '{0}' is given twice")]
    NameTwice(String),
    /// A slice without memory holds nothing.
    #[error("slice '{0}': memory must be above 0")]
    NoMemory(String),
    /// A GPU's cores are not ours to give.
    #[error("slice '{0}': cores are of the CPU and device is of a GPU; name one of both")]
    Both(String),
    /// No list of cores.
    #[error("slice '{slice}': {why}")]
    Cores {
        /// Whose.
        slice: String,
        /// In words.
        why: String,
    },
    /// Two slices would share a core.
    #[error("core {core} is on the slices '{one}' and '{other}'")]
    CoreTwice {
        /// Which.
        core: usize,
        /// One slice.
        one: String,
        /// Another.
        other: String,
    },
    /// It would run on the others' cores.
    #[error(
        "slice '{0}' names no cores and would run on those of others: name cores for all slices of the CPU, or for none"
    )]
    CoresOfOthers(String),
    /// Not here.
    #[error("slice '{slice}': this machine, or container, has no core {core}")]
    NoCore {
        /// Whose.
        slice: String,
        /// Which.
        core: usize,
    },
    /// All runtimes compute on one kind of device.
    #[error("slice '{cpu}' is of the CPU and '{gpu}' of a GPU: runtimes compute on one or the other")]
    Mixed {
        /// One of the CPU.
        cpu: String,
        /// One of a GPU.
        gpu: String,
    },
    /// Slices of a GPU, and runtimes that use none.
    #[error("slice '{0}' is of a GPU, and runtimes compute on the CPU: serve with --device cuda, or name no device")]
    NotOnGpus(String),
    /// Slices of the CPU, and runtimes that use a GPU.
    #[error(
        "slice '{0}' names no device, and runtimes compute on GPUs (--device cuda): name its device, GPU-… or MIG-…"
    )]
    OnGpus(String),
    /// A word that names no device.
    #[error(
        "{place}: {word:?} is no device; a GPU or MIG instance is named by its UUID (GPU-…, MIG-…) or an index (0, or 0:1 for an instance)"
    )]
    NoDevice {
        /// A variable or a slice.
        place: String,
        /// What it says.
        word: String,
    },
    /// A device that is not there.
    #[error("{place}: there is no device {device}; NVML reports: {there}")]
    NotThere {
        /// A variable or a slice.
        place: String,
        /// Which.
        device: String,
        /// What is there, in words.
        there: String,
    },
    /// The beginning of several names.
    #[error("{place}: several devices begin with {device}; name one in full")]
    Ambiguous {
        /// A variable or a slice.
        place: String,
        /// The beginning.
        device: String,
    },
    /// A GPU in MIG mode.
    #[error("{place}: {device} is in MIG mode; name one of its instances: {instances}")]
    Several {
        /// A slice.
        place: String,
        /// The GPU.
        device: String,
        /// Their UUIDs.
        instances: String,
    },
    /// Shares of a device without sizes.
    #[error("slice '{0}' shares its device with others, and needs memory: how much of the device's is its own")]
    ShareWithoutMemory(String),
    /// Nobody knows a device's size.
    #[error("slice '{slice}' needs memory, as nobody says how much its device has{because}", because = because(why))]
    WithoutMemory {
        /// Which.
        slice: String,
        /// Why NVML does not say.
        why: Option<NvmlError>,
    },
    /// The same, of devices that the environment names.
    #[error(
        "nobody says how much memory {devices} has ({why}): name devices with their memory in [[slices]] of the configuration"
    )]
    MemoryUnknown {
        /// As the environment names them.
        devices: String,
        /// Why NVML does not say.
        why: NvmlError,
    },
    /// More than there is.
    #[error(
        "the slices of {of} have {together} bytes of memory together, which leaves nothing for another, or is more than the {there} that there are"
    )]
    TooMuch {
        /// A device, or this machine.
        of: String,
        /// As configured.
        together: u64,
        /// As it has.
        there: u64,
    },
    /// The environment gives no GPU.
    #[error("runtimes are to compute on GPUs (--device cuda), and {0} keeps back all of them")]
    KeptBack(&'static str),
    /// There is none that could be used.
    #[error("runtimes are to compute on GPUs (--device cuda), and none can be used: NVML reports {0}")]
    NoGpu(String),
    /// NVML does not answer.
    #[error(
        "{0}; --device cuda asks it which GPUs there are, unless [[slices]] of the configuration names devices with their memory"
    )]
    Nvml(NvmlError),
}

fn because(why: &Option<NvmlError>) -> String {
    why.as_ref().map_or_else(String::new, |why| format!(" ({why})"))
}

fn bounded<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    Some(*bytes).filter(|bytes| *bytes != u64::MAX).serialize(serializer)
}

/// Every slice of this machine, at least one. `wants_gpu`: runtimes compute on GPUs. `nvml_library`: a file in place of the loader's choice.
///
/// # Errors
/// What is configured cannot be, or is not there; there is no GPU where one is wanted, or nobody says how large it is.
pub fn inventory(
    entries: &[SliceEntry],
    environment: &DeviceEnvironment,
    wants_gpu: bool,
    nvml_library: Option<&Path>,
) -> Result<Vec<Slice>, SliceError> {
    check(entries)?;
    match entries.iter().find(|entry| entry.device.is_some() != wants_gpu) {
        Some(entry) if wants_gpu => return Err(SliceError::OnGpus(entry.name.clone())),
        Some(entry) => return Err(SliceError::NotOnGpus(entry.name.clone())),
        None => {}
    }
    match (entries.is_empty(), wants_gpu) {
        (true, true) => gpus::found(nvml::gpus(nvml_library), environment),
        (false, true) => gpus::configured(entries, &nvml::gpus(nvml_library)),
        (true, false) => Ok(vec![cpu::whole(Machine::here())]),
        (false, false) => cpu::configured(entries, Machine::here(), &cores::here()),
    }
}

/// What slices are called.
pub fn names(slices: &[Slice]) -> Vec<String> {
    slices.iter().map(|slice| slice.name.clone()).collect()
}

/// All that can be said of entries without looking at the machine.
///
/// # Errors
/// The first that cannot be.
pub fn check(entries: &[SliceEntry]) -> Result<(), SliceError> {
    let mut names = BTreeSet::new();
    for entry in entries {
        entry.check()?;
        if !names.insert(&entry.name) {
            return Err(SliceError::NameTwice(entry.name.clone()));
        }
    }
    let mut taken: Vec<(usize, &str)> = Vec::new();
    for entry in entries {
        for core in entry.cores()? {
            if let Some((_, one)) = taken.iter().find(|(taken, _)| *taken == core) {
                return Err(SliceError::CoreTwice { core, one: (*one).to_owned(), other: entry.name.clone() });
            }
            taken.push((core, &entry.name));
        }
    }
    let of_cpu = entries.iter().find(|entry| entry.device.is_none());
    if let (Some(cpu), Some(gpu)) = (of_cpu, entries.iter().find(|entry| entry.device.is_some())) {
        return Err(SliceError::Mixed { cpu: cpu.name.clone(), gpu: gpu.name.clone() });
    }
    let silent = entries.iter().find(|entry| entry.cores.is_none() && entry.device.is_none());
    match silent.filter(|_| !taken.is_empty()) {
        Some(entry) => Err(SliceError::CoresOfOthers(entry.name.clone())),
        None => Ok(()),
    }
}

impl SliceEntry {
    fn check(&self) -> Result<(), SliceError> {
        let name = || self.name.clone();
        let printable = self.name.chars().all(|c| !c.is_whitespace() && !c.is_control());
        if self.name.is_empty() || self.name.len() > 200 || !printable {
            return Err(SliceError::BadName(name()));
        }
        if self.memory == Some(0) {
            return Err(SliceError::NoMemory(name()));
        }
        match (&self.device, &self.cores) {
            (Some(_), Some(_)) => return Err(SliceError::Both(name())),
            (Some(word), None) if word.parse::<Named>().is_err() => {
                return Err(SliceError::NoDevice { place: self.place(), word: word.clone() });
            }
            _ => {}
        }
        self.cores().map(drop)
    }

    /// Its cores, sorted; none: all, or it is of a GPU.
    fn cores(&self) -> Result<Vec<usize>, SliceError> {
        let Some(text) = &self.cores else { return Ok(Vec::new()) };
        let cores: Result<Cores, String> = text.parse();
        cores.map(|cores| cores.numbers()).map_err(|why| SliceError::Cores { slice: self.name.clone(), why })
    }

    /// For errors.
    fn place(&self) -> String {
        format!("slice '{}'", self.name)
    }
}

impl Slice {
    /// What a runtime on it is told as arguments: its cores and bytes of the CPU, where they are not the whole machine's.
    pub fn arguments(&self) -> Vec<OsString> {
        let SliceKind::Cpu { cores } = &self.kind else { return Vec::new() };
        let cores = Cores::of(cores.iter().copied()).map(|cores| ["--cores".into(), cores.to_string()]);
        let memory = self.limited.then(|| ["--memory-limit".into(), self.bytes.to_string()]);
        [cores, memory].into_iter().flatten().flatten().map(OsString::from).collect()
    }

    /// What a runtime on it finds in its environment: its GPU, and no other.
    pub fn environment(&self) -> Vec<(&'static str, &str)> {
        let SliceKind::Gpu { device, .. } = &self.kind else { return Vec::new() };
        // NVML counts in the order of the bus, and CUDA, left alone, by speed.
        let by_index = matches!(device.parse(), Ok(Named::Index(_))).then_some(("CUDA_DEVICE_ORDER", "PCI_BUS_ID"));
        [(visible::CUDA, device.as_str()), (visible::NVIDIA, device)].into_iter().chain(by_index).collect()
    }
}

#[cfg(test)]
mod tests;
