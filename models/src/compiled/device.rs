//! A CUDA device's end of it: a pass of each kind when the model is sealed, and kernels found again when it is restored.

use super::{Identity, KernelBundle, none_for};
use crate::{Batch, ComputeDevice, Error, Model, Segment};
use burn::tensor::Device;
use kernels::KvFormat;
use kernels::compiled::{self, CompiledKernel};
use snapshot::{SectionKind, Snapshot};
use std::sync::Arc;

/// Rows of the passes: kernels that take several rows take four, and CubeCL has other ones for odd counts, for multiples and for many.
const ROWS: [usize; 9] = [1, 2, 3, 4, 5, 6, 7, 8, 64];
/// A pool as large as those that serve, as to how it is cleared.
const BLOCKS: usize = 64;

/// Has what `snapshot` brings for `device` found in place of being compiled; how many kernels that were. To be called before a model is
/// restored there; devices but CUDA have none.
///
/// # Errors
/// [`Error::BadModel`]: the section is none. [`Error::Snapshot`]: it is corrupt. [`Error::Device`]: the driver does not say what the device is.
pub fn adopt_kernels(snapshot: &Snapshot, device: ComputeDevice) -> Result<usize, Error> {
    let ComputeDevice::Cuda(number) = device else { return Ok(0) };
    compiled::keep();
    let (model, again) = (snapshot.model(), "seal it once more here: pilotlight seal MODEL --kernels cuda");
    let Some(section) = snapshot.section(SectionKind::Kernels)? else {
        tracing::warn!(model, "no kernels are sealed with it, and all are compiled while it starts; {again}");
        return Ok(0);
    };
    let bundle = KernelBundle::from_section(section)?;
    let (sealed, here) = (&bundle.identity, Identity::of(number)?);
    if here.as_ref() != Some(sealed) {
        tracing::warn!(
            model,
            ?sealed,
            ?here,
            "its kernels are another program's or device's, and are compiled while it starts; {again}"
        );
        return Ok(0);
    }
    let count = compiled::adopt(&bundle.kernels);
    tracing::debug!(model, count, "kernels need no compiling");
    Ok(count)
}

/// The section for a model that has been sealed to `snapshot` without one.
pub(crate) fn compute(snapshot: &Arc<Snapshot>, device: ComputeDevice) -> Result<Vec<u8>, Error> {
    let ComputeDevice::Cuda(number) = device else { return Err(none_for(device)) };
    let opened = device.open()?;
    let nameless = || {
        let how = "build it with RUSTFLAGS=-Clink-arg=-Wl,--build-id";
        Error::Unsupported(format!("kernels: this program has no build id by which they could be known again; {how}"))
    };
    let identity = Identity::of(number)?.ok_or_else(nameless)?;
    KernelBundle { identity, kernels: warmed(snapshot, opened)? }.to_section()
}

impl Identity {
    /// This program's on a device; `None` where it has no build id.
    fn of(number: usize) -> Result<Option<Self>, Error> {
        let devices = kernels::cuda::devices().map_err(|error| Error::Device(error.to_string()))?;
        let absent = || {
            Error::Unsupported(format!("device cuda:{number}: the CUDA driver offers {} devices here", devices.len()))
        };
        let (major, minor) = devices.get(number).ok_or_else(absent)?.compute_capability;
        let identity = |build| Self {
            version: env!("CARGO_PKG_VERSION").into(),
            build,
            architecture: format!("sm_{major}{minor}"),
        };
        Ok(compiled::build().map(identity))
    }
}

/// What is compiled for one row to several, of which one or all are wanted, in every format of keys and values.
fn warmed(snapshot: &Arc<Snapshot>, device: Device) -> Result<Vec<CompiledKernel>, Error> {
    let mut model = Model::restore_on(snapshot, device)?;
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
    let all = compiled::compiled();
    match all.is_empty() {
        true => Err(Error::Device("kernels: the device's compiler kept none".into())),
        false => Ok(all),
    }
}
