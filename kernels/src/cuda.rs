//! The CUDA devices of this machine.
//!
//! **Contract:** asks the driver and computes nothing. Where the driver's library is absent there
//! are no devices; nothing panics, because the library is looked for before it is called. This
//! module is type-checked only, and was not run on a GPU.

use crate::Error;
use cudarc::driver::result::{self, DriverError, device};
use cudarc::driver::sys::{self, CUdevice_attribute as Attribute};

/// A device the driver offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaDevice {
    /// The driver's number for it, from 0.
    pub ordinal: usize,
    /// Its name, as the driver says it.
    pub name: String,
    /// Memory, whoever uses it.
    pub total_bytes: u64,
    /// Major and minor compute capability.
    pub compute_capability: (u32, u32),
}

/// All devices the driver offers; none where there is no driver or it has no device.
///
/// # Errors
/// Where the driver is there and answers with an error.
pub fn devices() -> Result<Vec<CudaDevice>, Error> {
    // SAFETY: loads and unloads a library that every user of the driver loads.
    if !unsafe { sys::is_culib_present() } {
        return Ok(Vec::new());
    }
    match result::init() {
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => return Ok(Vec::new()),
        init => init.map_err(driver)?,
    }
    let count = device::get_count().map_err(driver)?;
    (0..count).map(|ordinal| describe(ordinal).map_err(driver)).collect()
}

/// The version of CUDA that the driver has: a thousand for each major version, ten for each minor one.
///
/// # Errors
/// The driver is not there, or answers with an error.
pub fn driver_version() -> Result<i32, Error> {
    let mut version = 0;
    // SAFETY: the driver writes a number to where one may be written.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().map_err(driver)?;
    Ok(version)
}

fn describe(ordinal: i32) -> Result<CudaDevice, DriverError> {
    let device = device::get(ordinal)?;
    // SAFETY: the driver has just given this device.
    let attribute = |name| unsafe { device::get_attribute(device, name) };
    let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(CudaDevice {
        ordinal: ordinal.unsigned_abs() as usize,
        name: device::get_name(device)?,
        // SAFETY: as above.
        total_bytes: unsafe { device::total_mem(device)? } as u64,
        compute_capability: (major.unsigned_abs(), minor.unsigned_abs()),
    })
}

fn driver(error: DriverError) -> Error {
    // The number alone: asking the driver for words could fail once more.
    Error::Driver(error.0 as u32)
}
