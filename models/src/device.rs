//! Where a model computes, by name: `cpu`, `cuda:N`, `vulkan`.
//!
//! **Invariant:** a device is looked for before it is used; nothing falls back to another. CUDA was not run on a GPU, and Vulkan on none but one
//! that is made of software.

use crate::Error;
use burn::tensor::Device;
use std::{fmt, str::FromStr};

/// A device that computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ComputeDevice {
    /// The processor.
    #[default]
    Cpu,
    /// The CUDA device with this number, from 0, among those that the process sees.
    Cuda(usize),
    /// The Vulkan device that the system puts first.
    Vulkan,
}

impl fmt::Display for ComputeDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::Vulkan => f.write_str("vulkan"),
        }
    }
}

impl FromStr for ComputeDevice {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            "vulkan" => Ok(Self::Vulkan),
            _ => {
                let number = word.strip_prefix("cuda:").and_then(|number| number.parse().ok());
                number.map(Self::Cuda).ok_or_else(|| format!("\"{word}\" is no device: cpu, cuda, cuda:N or vulkan"))
            }
        }
    }
}

impl ComputeDevice {
    /// The device, for [`Model::restore_on`](crate::Model::restore_on).
    ///
    /// # Errors
    /// [`Error::Unsupported`] where this build cannot use it, or this machine has none.
    pub fn open(self) -> Result<Device, Error> {
        match self {
            Self::Cpu => Ok(Device::flex()),
            Self::Cuda(number) => cuda(number),
            Self::Vulkan => vulkan(),
        }
    }
}

#[cfg(feature = "cuda")]
fn cuda(number: usize) -> Result<Device, Error> {
    use burn::tensor::DeviceType;
    // Before anything asks for the device.
    kernels::compiled::keep();
    let found = Device::enumerate(DeviceType::Cuda).len();
    match number < found {
        true => Ok(Device::cuda(number)),
        false => Err(Error::Unsupported(format!("device cuda:{number}: the CUDA driver offers {found} devices here"))),
    }
}

#[cfg(not(feature = "cuda"))]
fn cuda(number: usize) -> Result<Device, Error> {
    Err(absent(&format!("cuda:{number}"), "cuda"))
}

#[cfg(feature = "vulkan")]
fn vulkan() -> Result<Device, Error> {
    use burn::tensor::{DeviceKind, DeviceType};
    #[cfg(feature = "cuda")]
    kernels::compiled::keep();
    let none = || Error::Unsupported("device vulkan: this machine offers none".into());
    let found = Device::enumerate(DeviceType::Vulkan);
    (!found.is_empty()).then(|| Device::vulkan(DeviceKind::DefaultDevice)).ok_or_else(none)
}

#[cfg(not(feature = "vulkan"))]
fn vulkan() -> Result<Device, Error> {
    Err(absent("vulkan", "vulkan"))
}

#[cfg(not(all(feature = "cuda", feature = "vulkan")))]
fn absent(device: &str, feature: &str) -> Error {
    Error::Unsupported(format!("device {device}: this build computes without it; build with --features {feature}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for device in [ComputeDevice::Cpu, ComputeDevice::Cuda(0), ComputeDevice::Cuda(7), ComputeDevice::Vulkan] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        assert_eq!("cuda".parse(), Ok(ComputeDevice::Cuda(0)));
        for word in ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
            assert!(word.parse::<ComputeDevice>().is_err_and(|error| error.contains("cuda:N")), "{word}");
        }
    }
}
