//! Which GPUs a device plugin, a container's runtime or an operator has given to this process, by the variables that say so.
//!
//! `NVIDIA_VISIBLE_DEVICES` is the container toolkit's: unset, empty, `all` and `void` keep nothing back (`void` is what is set where devices come
//! by CDI), nor does a path (lists that come as volumes); `none` keeps back everything. `CUDA_VISIBLE_DEVICES` is CUDA's: unset is everything, empty,
//! `none`, `void`, `-1` and `NoDevFiles` are nothing. Both take lists of UUIDs (of GPUs or of MIG instances, beginnings that are unique will do), of
//! indices, and of `GPU:INSTANCE` indices; of a GPU in MIG mode that means all its instances. Indices count as NVML does, in the order of the bus.
//!
//! **Invariant:** pure; where both variables say something, both hold.

use std::fmt;

use super::SliceError;

/// `NVIDIA_VISIBLE_DEVICES`.
pub const NVIDIA: &str = "NVIDIA_VISIBLE_DEVICES";
/// `CUDA_VISIBLE_DEVICES`.
pub const CUDA: &str = "CUDA_VISIBLE_DEVICES";

/// The variables as they were found; `None` is unset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceEnvironment {
    /// `NVIDIA_VISIBLE_DEVICES`
    pub nvidia: Option<String>,
    /// `CUDA_VISIBLE_DEVICES`
    pub cuda: Option<String>,
}

/// One device as people and plugins name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// A GPU, in the order of the bus.
    Index(u32),
    /// A MIG instance of a GPU.
    Instance(u32, u32),
    /// `GPU-…` or `MIG-…`, or the beginning of one.
    Uuid(String),
}

/// What a variable says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Visible {
    /// It keeps nothing back.
    All,
    /// These; none: nothing.
    Only(Vec<Named>),
}

impl DeviceEnvironment {
    /// What each variable says, with its name.
    ///
    /// # Errors
    /// A word that is no device.
    pub fn visible(&self) -> Result<[(&'static str, Visible); 2], SliceError> {
        Ok([(NVIDIA, nvidia(self.nvidia.as_deref())?), (CUDA, cuda(self.cuda.as_deref())?)])
    }
}

fn nvidia(value: Option<&str>) -> Result<Visible, SliceError> {
    match value.map(str::trim) {
        None | Some("" | "all" | "void") => Ok(Visible::All),
        Some(path) if path.starts_with('/') => Ok(Visible::All),
        Some("none") => Ok(Visible::Only(Vec::new())),
        Some(list) => devices(NVIDIA, list),
    }
}

fn cuda(value: Option<&str>) -> Result<Visible, SliceError> {
    match value.map(str::trim) {
        None | Some("all") => Ok(Visible::All),
        Some("" | "none" | "void" | "-1" | "NoDevFiles") => Ok(Visible::Only(Vec::new())),
        Some(list) => devices(CUDA, list),
    }
}

fn devices(variable: &str, list: &str) -> Result<Visible, SliceError> {
    let mut devices = Vec::new();
    for word in list.split(',').map(str::trim) {
        let device = word.parse().map_err(|_| SliceError::NoDevice { place: variable.into(), word: word.into() })?;
        // Said twice is meant once.
        if !devices.contains(&device) {
            devices.push(device);
        }
    }
    Ok(Visible::Only(devices))
}

impl std::str::FromStr for Named {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        let number = |word: &str| {
            let digits = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit());
            word.parse::<u32>().ok().filter(|_| digits)
        };
        if let Some(index) = number(word) {
            return Ok(Self::Index(index));
        }
        if let Some((gpu, instance)) = word.split_once(':') {
            return Ok(Self::Instance(number(gpu).ok_or(())?, number(instance).ok_or(())?));
        }
        let rest = word.strip_prefix("GPU-").or_else(|| word.strip_prefix("MIG-")).ok_or(())?;
        // The old form of an instance's name is MIG-GPU-UUID/3/0.
        let known = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '/';
        if rest.is_empty() || !rest.chars().all(known) { Err(()) } else { Ok(Self::Uuid(word.to_owned())) }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Index(index) => write!(f, "{index}"),
            Self::Instance(gpu, instance) => write!(f, "{gpu}:{instance}"),
            Self::Uuid(uuid) => f.write_str(uuid),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn uuid(text: &str) -> Named {
        Named::Uuid(text.into())
    }

    #[test]
    fn words_mean_what_the_toolkit_and_cuda_mean_by_them() {
        let nothing = Visible::Only(Vec::new());
        for value in [None, Some(""), Some("all"), Some("void"), Some("/var/run/nvidia-container-devices")] {
            assert_eq!(nvidia(value).unwrap(), Visible::All, "{value:?}");
        }
        assert_eq!(nvidia(Some("none")).unwrap(), nothing);
        for value in [None, Some("all")] {
            assert_eq!(cuda(value).unwrap(), Visible::All, "{value:?}");
        }
        for value in ["", "none", "void", "-1", "NoDevFiles"] {
            assert_eq!(cuda(Some(value)).unwrap(), nothing, "{value}");
        }
    }

    #[test]
    fn lists_name_uuids_and_indices() {
        let list = "GPU-1a, MIG-2b-3,0,1:6,0,MIG-GPU-4c/3/0";
        let expected =
            [uuid("GPU-1a"), uuid("MIG-2b-3"), Named::Index(0), Named::Instance(1, 6), uuid("MIG-GPU-4c/3/0")];
        assert_eq!(nvidia(Some(list)).unwrap(), Visible::Only(expected.into()));
        for word in ["GPU-", "gpu0", "0,", "1:", ":", "-2", "99999999999", "GPU-a b", "0-3"] {
            let said = cuda(Some(word)).unwrap_err().to_string();
            assert!(said.contains(CUDA), "{word}: {said}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_is_printed_is_read_as_the_same(gpu: u32, instance: u32, rest in "[0-9a-f-]{1,40}") {
            for named in [Named::Index(gpu), Named::Instance(gpu, instance), uuid(&format!("MIG-{rest}"))] {
                proptest::prop_assert_eq!(named.to_string().parse::<Named>(), Ok(named));
            }
        }

        #[test]
        fn whatever_the_variables_say_is_read_or_told(text in "[0-9,:GPUMI\\-a/ ]{0,16}|.{0,16}") {
            let environment = DeviceEnvironment { nvidia: Some(text.clone()), cuda: Some(text) };
            if let Err(error) = environment.visible() {
                proptest::prop_assert!(error.to_string().contains("VISIBLE_DEVICES"));
            }
        }
    }
}
