//! What NVIDIA's management library (NVML) says of this machine's GPUs: identities, memory, MIG instances.
//!
//! **Invariant:** the library is loaded when it is asked, and unloaded behind it; that it, or the driver, is not there is an answer
//! ([`NvmlError::Unavailable`]) and no fault. A GPU that fails keeps nobody from the others: it stands among them as its error.
//! Not run on a GPU: tested against a stand-in for the library (`tests/fake-nvml`).

use std::path::Path;

use nvml_wrapper::{Device, Nvml, error::NvmlError as Said};

/// What the loader looks for where no file is named.
const LIBRARY: &str = "libnvidia-ml.so.1";

/// A physical GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// In NVML's order, that of the bus.
    pub index: u32,
    /// `GPU-…`
    pub uuid: String,
    /// What can be used of it.
    pub parts: Parts,
}

/// What programs can use of a GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parts {
    /// All of it, with so many bytes that programs can have.
    Whole(u64),
    /// It is in MIG mode: its instances alone. (Who may use those need not be told of the GPU's own memory.)
    Instances(Vec<Instance>),
}

/// A MIG instance: a part of a GPU with processors and memory of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// In NVML's order among those of its GPU.
    pub index: u32,
    /// `MIG-…`
    pub uuid: String,
    /// Memory that programs can have.
    pub bytes: u64,
}

/// Why NVML does not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NvmlError {
    /// There is no library, or no driver below it.
    #[error("NVIDIA's management library ({library}) is not to be had: {why}")]
    Unavailable {
        /// Its name or file.
        library: String,
        /// What the loader or the library said.
        why: String,
    },
    /// A call failed.
    #[error("{call} of {device} failed: {why}")]
    Call {
        /// The library's function.
        call: &'static str,
        /// Which device.
        device: String,
        /// What the library said.
        why: String,
    },
}

/// All GPUs that this process may use, in the order of the bus. `library`: a file in place of the loader's choice.
///
/// # Errors
/// There is no NVML here, or it does not say how many GPUs there are.
pub fn gpus(library: Option<&Path>) -> Result<Vec<Result<Gpu, NvmlError>>, NvmlError> {
    let library = library.unwrap_or(Path::new(LIBRARY));
    let nvml = Nvml::builder()
        .lib_path(library.as_os_str())
        .init()
        .map_err(|why| NvmlError::Unavailable { library: library.display().to_string(), why: why.to_string() })?;
    let count = nvml.device_count().map_err(failed("nvmlDeviceGetCount_v2", "the machine"))?;
    Ok((0..count).filter_map(|index| gpu(&nvml, index).transpose()).collect())
}

fn failed(call: &'static str, device: impl Into<String>) -> impl FnOnce(Said) -> NvmlError {
    let device = device.into();
    move |why| NvmlError::Call { call, device, why: why.to_string() }
}

/// `None`: it is somebody else's.
fn gpu(nvml: &Nvml, index: u32) -> Result<Option<Gpu>, NvmlError> {
    let name = format!("GPU {index}");
    let device = match nvml.device_by_index(index) {
        Err(Said::NoPermission) => return Ok(None),
        device => device.map_err(failed("nvmlDeviceGetHandleByIndex_v2", &name))?,
    };
    let uuid = device.uuid().map_err(failed("nvmlDeviceGetUUID", &name))?;
    let name = format!("{name} ({uuid})");
    let parts = match device.mig_mode() {
        Ok(mode) if mode.current == 1 => Parts::Instances(instances(&device, &name)?),
        // GPUs that have no such mode say so.
        Ok(_) | Err(Said::NotSupported) => Parts::Whole(bytes(&device, &name)?),
        Err(why) => return Err(failed("nvmlDeviceGetMigMode", &name)(why)),
    };
    Ok(Some(Gpu { index, uuid, parts }))
}

fn instances(gpu: &Device<'_>, name: &str) -> Result<Vec<Instance>, NvmlError> {
    let most = gpu.mig_device_count().map_err(failed("nvmlDeviceGetMaxMigDeviceCount", name))?;
    let mut instances = Vec::new();
    for index in 0..most {
        let device = match gpu.mig_device_by_index(index) {
            // A place without an instance, or one that is somebody else's.
            Err(Said::NotFound | Said::NoPermission) => continue,
            device => {
                device.map_err(failed("nvmlDeviceGetMigDeviceHandleByIndex", format!("instance {index} of {name}")))?
            }
        };
        let name = format!("instance {index} of {name}");
        let uuid = device.uuid().map_err(failed("nvmlDeviceGetUUID", &name))?;
        instances.push(Instance { index, uuid, bytes: bytes(&device, &name)? });
    }
    Ok(instances)
}

/// Without what the driver and its firmware keep for themselves.
fn bytes(device: &Device<'_>, name: &str) -> Result<u64, NvmlError> {
    let memory = device.memory_info().map_err(failed("nvmlDeviceGetMemoryInfo_v2", name))?;
    Ok(memory.total.saturating_sub(memory.reserved))
}
