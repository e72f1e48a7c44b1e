//! A CUDA device's end of it: a pass of each kind when the model is sealed, and kernels found again when it is restored.

use super::{Identity, KernelBundle, SECTION, none_for};
use crate::{Batch, ComputeDevice, Error, Model, Segment};
use burn::tensor::Device;
use kernels::KvFormat;
use kernels::compiled;
use kernels::cuda;
use snapshot::{SectionKind, Snapshot};
use std::sync::Arc;

/// Rows of the passes: kernels that take several rows take four, and CubeCL has other ones for odd counts, for multiples and for many.
const ROWS: [usize; 9] = [1, 2, 3, 4, 5, 6, 7, 8, 64];
/// A pool as large as those that serve, as to how it is cleared.
const BLOCKS: usize = 64;

/// Has what `snapshot` brings for `device` found in place of being compiled; how many kernels that were. To be called when the device is open and
/// before a model is restored there; devices but CUDA have none. Without them all are compiled, so whatever keeps them from being used
/// is said and no more.
///
/// # Errors
/// [`Error::Snapshot`]: the section is corrupt. [`Error::Device`]: the driver does not say what the device is.
pub fn adopt_kernels(snapshot: &Snapshot, device: ComputeDevice) -> Result<usize, Error> {
    let ComputeDevice::Cuda(number) = device else { return Ok(0) };
    let (model, again) = (snapshot.model(), "seal it once more here: pilotlight seal MODEL --kernels cuda");
    let Some(section) = snapshot.section(SectionKind::Kernels)? else {
        tracing::warn!(model, "no kernels are sealed with it, and all are compiled while it starts; {again}");
        return Ok(0);
    };
    let here = Identity::of(number)?;
    let read = SECTION.head::<Identity>(section).and_then(|sealed| match Some(&sealed) == here.as_ref() {
        true => KernelBundle::from_section(section).map(Ok),
        false => Ok(Err(sealed)),
    });
    match read {
        Ok(Ok(bundle)) if compiled::keep() => {
            let count = compiled::adopt(&bundle.compiled);
            tracing::debug!(model, count, "kernels need no compiling");
            return Ok(count);
        }
        Ok(Ok(_)) => tracing::warn!(model, "the device was used before its kernels came, and all are compiled"),
        Ok(Err(sealed)) => tracing::warn!(
            model,
            ?sealed,
            ?here,
            "its kernels are another program's, driver's or device's, and are compiled while it starts; {again}"
        ),
        Err(error) => tracing::warn!(model, %error, "its kernels are compiled while it starts; {again}"),
    }
    Ok(0)
}

/// Compiles ahead for a device.
pub(crate) struct Compiler {
    device: Device,
    identity: Identity,
}

impl Compiler {
    /// That of a device, if it has one.
    pub(crate) fn of(device: ComputeDevice) -> Result<Self, Error> {
        let ComputeDevice::Cuda(number) = device else { return Err(none_for(device)) };
        let nameless = || {
            let how = "build it with RUSTFLAGS=-Clink-arg=-Wl,--build-id";
            Error::Unsupported(format!(
                "kernels: this program has no build id by which they could be known again; {how}"
            ))
        };
        let device = device.open()?;
        if !compiled::keep() {
            return Err(Error::Device("kernels: the device was used before, and nothing of it is kept".into()));
        }
        Ok(Self { device, identity: Identity::of(number)?.ok_or_else(nameless)? })
    }

    /// The section for a model that has been sealed to `snapshot` without one.
    pub(crate) fn section(&self, snapshot: &Arc<Snapshot>) -> Result<Vec<u8>, Error> {
        warm(snapshot, &self.device)?;
        let compiled = compiled::compiled();
        match compiled.kernels.is_empty() {
            true => Err(Error::Device("kernels: the device's compiler kept none".into())),
            false => KernelBundle { identity: self.identity.clone(), compiled }.to_section(),
        }
    }
}

impl Identity {
    /// This program's on a device; `None` where it has no build id.
    fn of(number: usize) -> Result<Option<Self>, Error> {
        let device = |error: kernels::Error| Error::Device(error.to_string());
        let devices = cuda::devices().map_err(device)?;
        let count = devices.len();
        let absent =
            || Error::Unsupported(format!("device cuda:{number}: the CUDA driver offers {count} devices here"));
        let (major, minor) = devices.get(number).ok_or_else(absent)?.compute_capability;
        let driver = cuda::driver_version().map_err(device)?;
        let (version, architecture) = (env!("CARGO_PKG_VERSION").into(), format!("sm_{major}{minor}"));
        Ok(compiled::build().map(|build| Self { version, build, architecture, driver }))
    }
}

/// One row to many, of which one or all are wanted, in every format of keys and values.
fn warm(snapshot: &Arc<Snapshot>, device: &Device) -> Result<(), Error> {
    let mut model = Model::restore_on(snapshot, device.clone())?;
    for format in [KvFormat::F32, KvFormat::F16, KvFormat::Q8] {
        model = model.with_kv_format(format);
        let mut kv = model.new_kv(BLOCKS);
        for rows in ROWS.map(|rows| rows.min(model.config().context_length)) {
            for wanted in [vec![rows - 1], (0..rows).collect()] {
                let segment = Segment { row: 0, rows, position: 0, length: rows, blocks: (0..BLOCKS as u32).collect() };
                model.forward(&mut kv, &Batch { tokens: vec![0; rows], segments: vec![segment], wanted });
            }
        }
    }
    Ok(())
}
