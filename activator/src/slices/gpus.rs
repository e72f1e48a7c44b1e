//! Slices of GPUs: what NVML reports, less what the environment keeps back, or as configured.
//!
//! **Invariant:** pure; a device that somebody names is one that is there, or an error names it and what is there. A GPU that fails is an error
//! only to who could have got it.

use std::collections::BTreeSet;

use super::{
    Slice, SliceEntry, SliceError, SliceKind,
    nvml::{Gpu, NvmlError, Parts},
    visible::{DeviceEnvironment, Named, Visible},
};

/// What NVML said.
pub type Reported = Result<Vec<Result<Gpu, NvmlError>>, NvmlError>;

/// A part of a GPU that programs can use: an instance, or all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    gpu: u32,
    instance: Option<u32>,
    uuid: String,
    whole: String,
    bytes: u64,
}

impl Part {
    fn is(&self, named: &Named) -> bool {
        match named {
            Named::Index(gpu) => self.gpu == *gpu,
            Named::Instance(gpu, instance) => self.gpu == *gpu && self.instance == Some(*instance),
            Named::Uuid(uuid) => self.uuid == *uuid || self.whole == *uuid,
        }
    }

    fn slice(self) -> Slice {
        let instance = self.instance.map_or_else(String::new, |instance| format!("-mig{instance}"));
        let kind = SliceKind::Gpu { device: self.uuid, whole: self.whole };
        Slice { name: format!("gpu{}{instance}", self.gpu), kind, bytes: self.bytes, limited: false }
    }
}

fn parts(gpu: &Gpu) -> Vec<Part> {
    let part = |instance, uuid: &str, bytes| {
        let (uuid, whole) = (uuid.to_owned(), gpu.uuid.clone());
        Part { gpu: gpu.index, instance, uuid, whole, bytes }
    };
    match &gpu.parts {
        Parts::Whole(bytes) => vec![part(None, &gpu.uuid, *bytes)],
        Parts::Instances(all) => all.iter().map(|it| part(Some(it.index), &it.uuid, it.bytes)).collect(),
    }
}

/// All that is there, and what failed.
#[derive(Debug)]
struct There {
    gpus: Vec<Gpu>,
    parts: Vec<Part>,
    failures: Vec<NvmlError>,
}

impl There {
    fn of(reported: Vec<Result<Gpu, NvmlError>>) -> Self {
        let mut there = Self { gpus: Vec::new(), parts: Vec::new(), failures: Vec::new() };
        for gpu in reported {
            match gpu {
                Ok(gpu) => {
                    there.parts.extend(parts(&gpu));
                    there.gpus.push(gpu);
                }
                Err(error) => there.failures.push(error),
            }
        }
        there
    }

    /// A name with its beginning alone, in full.
    fn full(&self, place: &str, named: &Named) -> Result<Named, SliceError> {
        let Named::Uuid(beginning) = named else { return Ok(named.clone()) };
        let all: BTreeSet<&str> = self.parts.iter().flat_map(|part| [part.uuid.as_str(), &part.whole]).collect();
        let mut fitting = all.into_iter().filter(|uuid| uuid.starts_with(beginning.as_str()));
        match (fitting.next(), fitting.next()) {
            // The names of one length: what is one in full sorts before what it begins.
            (Some(first), Some(_)) if first != beginning => {
                Err(SliceError::Ambiguous { place: place.into(), device: beginning.clone() })
            }
            (Some(first), _) => Ok(Named::Uuid(first.to_owned())),
            (None, _) => Ok(named.clone()),
        }
    }

    /// The parts that this name means; at least one.
    fn find(&self, place: &str, named: &Named) -> Result<Vec<&Part>, SliceError> {
        let full = self.full(place, named)?;
        let found: Vec<&Part> = self.parts.iter().filter(|part| part.is(&full)).collect();
        match (found.is_empty(), self.failures.first()) {
            (false, _) => Ok(found),
            // It may be the one that failed.
            (true, Some(failure)) => Err(SliceError::Nvml(failure.clone())),
            (true, None) => {
                let (place, device) = (place.to_owned(), named.to_string());
                Err(SliceError::NotThere { place, device, there: self.words() })
            }
        }
    }

    /// For errors.
    fn words(&self) -> String {
        let gpu = |gpu: &Gpu| match &gpu.parts {
            Parts::Whole(_) => gpu.uuid.clone(),
            Parts::Instances(all) if all.is_empty() => format!("{} in MIG mode without an instance", gpu.uuid),
            Parts::Instances(all) => all.iter().map(|it| it.uuid.as_str()).collect::<Vec<_>>().join(", "),
        };
        match self.gpus.as_slice() {
            [] => "no GPU".into(),
            gpus => gpus.iter().map(gpu).collect::<Vec<_>>().join(", "),
        }
    }

    /// A container's runtime has let in what it was told to, and nothing else: then the list's indices are those of the machine around it.
    fn is_let_in(&self, named: &[Named]) -> bool {
        let instances = named.iter().all(|named| matches!(named, Named::Instance(..)));
        let indices = named.iter().all(|named| matches!(named, Named::Index(_)));
        instances && named.len() == self.parts.len() || indices && named.len() == self.gpus.len()
    }
}

/// Every part that this process may use.
///
/// # Errors
/// See the variants of [`SliceError`]; none at all is one, too.
pub fn found(reported: Reported, environment: &DeviceEnvironment) -> Result<Vec<Slice>, SliceError> {
    let visible = environment.visible()?;
    let there = match reported {
        Ok(reported) => There::of(reported),
        Err(why) => return Err(without_nvml(why, &visible)),
    };
    let mut given = there.parts.clone();
    for (variable, visible) in &visible {
        let Visible::Only(named) = visible else { continue };
        if named.is_empty() {
            return Err(SliceError::KeptBack(variable));
        }
        if *variable == super::visible::NVIDIA && there.failures.is_empty() && there.is_let_in(named) {
            continue;
        }
        let mut kept = Vec::new();
        for named in named {
            kept.extend(there.find(variable, named)?);
        }
        given.retain(|part| kept.contains(&part));
    }
    let all = visible.iter().all(|(_, visible)| *visible == Visible::All);
    match there.failures.first() {
        Some(failure) if all => Err(SliceError::Nvml(failure.clone())),
        _ if given.is_empty() => Err(SliceError::NoGpu(there.words())),
        _ => Ok(given.into_iter().map(Part::slice).collect()),
    }
}

/// Who they are may be known all the same, but not how large.
fn without_nvml(why: NvmlError, visible: &[(&'static str, Visible); 2]) -> SliceError {
    let named = |(_, visible): &(&str, Visible)| match visible {
        Visible::All => None,
        Visible::Only(named) => Some(named.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    };
    // CUDA's variable is the narrower one.
    match visible.iter().rev().find_map(named) {
        Some(devices) if !devices.is_empty() => SliceError::MemoryUnknown { devices, why },
        _ => SliceError::Nvml(why),
    }
}

/// As configured; all entries have a device that is a name of one.
///
/// # Errors
/// A device that is not there or stands for several, memory that is not known, or more than there is.
pub fn configured(entries: &[SliceEntry], reported: &Reported) -> Result<Vec<Slice>, SliceError> {
    let there = reported.as_ref().ok().map(|gpus| There::of(gpus.clone()));
    let mut located = Vec::new();
    for entry in entries {
        let (place, word) = (entry.place(), entry.device.as_deref().unwrap_or_default());
        let named = word.parse().map_err(|()| SliceError::NoDevice { place: place.clone(), word: word.into() })?;
        located.push(match &there {
            Some(there) => one(there, &place, &named)?,
            None => unseen(word, &named),
        });
    }
    let mut slices = Vec::new();
    for (entry, part) in entries.iter().zip(&located) {
        let sharers: Vec<&SliceEntry> =
            entries.iter().zip(&located).filter(|(_, other)| other.uuid == part.uuid).map(|(entry, _)| entry).collect();
        let known = there.as_ref().map(|_| part.bytes);
        let bytes = match (entry.memory, known, sharers.len()) {
            (Some(memory), ..) => memory,
            (None, Some(bytes), 1) => bytes,
            (None, Some(_), _) => return Err(SliceError::ShareWithoutMemory(entry.name.clone())),
            (None, None, _) => {
                let why = reported.as_ref().err().cloned();
                return Err(SliceError::WithoutMemory { slice: entry.name.clone(), why });
            }
        };
        let together = sharers.iter().filter_map(|entry| entry.memory).fold(0, u64::saturating_add);
        if let Some(there) = known.filter(|there| together > *there) {
            return Err(SliceError::TooMuch { of: part.uuid.clone(), together, there });
        }
        let kind = SliceKind::Gpu { device: part.uuid.clone(), whole: part.whole.clone() };
        slices.push(Slice { name: entry.name.clone(), kind, bytes, limited: false });
    }
    Ok(slices)
}

fn one(there: &There, place: &str, named: &Named) -> Result<Part, SliceError> {
    match there.find(place, named)?.as_slice() {
        [part] => Ok((*part).clone()),
        several => {
            let instances = several.iter().map(|part| part.uuid.as_str()).collect::<Vec<_>>().join(", ");
            Err(SliceError::Several { place: place.to_owned(), device: named.to_string(), instances })
        }
    }
}

/// As it was written, since nobody says what is there.
fn unseen(word: &str, named: &Named) -> Part {
    let whole = if word.starts_with("GPU-") { word.to_owned() } else { String::new() };
    let gpu = if let Named::Index(gpu) | Named::Instance(gpu, _) = named { *gpu } else { 0 };
    Part { gpu, instance: None, uuid: word.to_owned(), whole, bytes: 0 }
}

#[cfg(test)]
mod tests;
