//! A stand-in for NVIDIA's management library, `libnvidia-ml.so.1`, for machines without a GPU. A test double: it reports what is written here, and
//! nothing of the machine.
//!
//! `FAKE_NVML` in the environment says what it reports when it is initialised:
//! - `mig` (or nothing): one H100 80GB in MIG mode with seven instances of 1g.10gb;
//! - `whole`: two of them without MIG;
//! - `lost`: the same, and a third one between them that has fallen off the bus;
//! - `gone`: no driver below the library.
//!
//! The functions have the names, arguments and results of NVML's reference; there are as many as inventories need. Built by
//! `activator/tests/nvml.rs` and `tests/slices.rs` with `rustc --crate-type cdylib`; it has no dependencies.
#![allow(non_snake_case, clippy::missing_safety_doc)]

use std::{
    ffi::{c_char, c_uint, c_ulonglong},
    sync::atomic::{AtomicUsize, Ordering},
};

/// `nvmlReturn_t`.
type Status = c_uint;
const SUCCESS: Status = 0;
const UNINITIALIZED: Status = 1;
const INVALID_ARGUMENT: Status = 2;
const NOT_FOUND: Status = 6;
const INSUFFICIENT_SIZE: Status = 7;
const DRIVER_NOT_LOADED: Status = 9;
const GPU_IS_LOST: Status = 15;

/// `nvmlDevice_t`: what it points to is the library's own business.
type Handle = *const Device;

/// A GPU or an instance of one.
pub struct Device {
    uuid: &'static str,
    total: u64,
    /// Of that, the driver's.
    reserved: u64,
    /// A GPU in MIG mode has some.
    instances: &'static [Device],
    is_lost: bool,
}

const MIB: u64 = 1 << 20;

const fn whole(uuid: &'static str) -> Device {
    // 81559 MiB, of which the driver keeps some.
    Device { uuid, total: 81_559 * MIB, reserved: 544 * MIB, instances: &[], is_lost: false }
}

const fn instance(uuid: &'static str) -> Device {
    // 9.75 GiB, as 1g.10gb has on this GPU.
    Device { uuid, total: 9_984 * MIB, reserved: 0, instances: &[], is_lost: false }
}

static MIG: [Device; 1] = [Device {
    instances: &[
        instance("MIG-b5b1ca41-6bcd-5a2e-9e24-1f2f5d2a0700"),
        instance("MIG-b5b1ca41-6bcd-5a2e-9e24-1f2f5d2a0701"),
        instance("MIG-b5b1ca41-6bcd-5a2e-9e24-1f2f5d2a0702"),
        instance("MIG-b5b1ca41-6bcd-5a2e-9e24-1f2f5d2a0703"),
        instance("MIG-b5b1ca41-6bcd-5a2e-9e24-1f2f5d2a0704"),
        instance("MIG-b5b1ca41-6bcd-5a2e-9e24-1f2f5d2a0705"),
        instance("MIG-b5b1ca41-6bcd-5a2e-9e24-1f2f5d2a0706"),
    ],
    ..whole("GPU-3c5a81ff-0d3e-4b1a-8f16-7c2f9d1e0a00")
}];

static WHOLE: [Device; 2] =
    [whole("GPU-3c5a81ff-0d3e-4b1a-8f16-7c2f9d1e0a00"), whole("GPU-3c5a81ff-0d3e-4b1a-8f16-7c2f9d1e0a02")];

static LOST: [Device; 3] = [
    whole("GPU-3c5a81ff-0d3e-4b1a-8f16-7c2f9d1e0a00"),
    Device { is_lost: true, ..whole("GPU-3c5a81ff-0d3e-4b1a-8f16-7c2f9d1e0a01") },
    whole("GPU-3c5a81ff-0d3e-4b1a-8f16-7c2f9d1e0a02"),
];

/// How often it was initialised and not shut down yet.
static INITIALISED: AtomicUsize = AtomicUsize::new(0);

fn gpus() -> &'static [Device] {
    match std::env::var("FAKE_NVML").as_deref() {
        Ok("whole") => &WHOLE,
        Ok("lost") => &LOST,
        _ => &MIG,
    }
}

fn ready() -> Result<(), Status> {
    if INITIALISED.load(Ordering::Acquire) > 0 { Ok(()) } else { Err(UNINITIALIZED) }
}

fn status(done: Result<(), Status>) -> Status {
    done.err().unwrap_or(SUCCESS)
}

/// The device of a handle, if it answers.
unsafe fn device(handle: Handle) -> Result<&'static Device, Status> {
    ready()?;
    // SAFETY: by the library's contract a handle is null or one that it has given out, which points to a static.
    let device = unsafe { handle.as_ref() }.ok_or(INVALID_ARGUMENT)?;
    if device.is_lost { Err(GPU_IS_LOST) } else { Ok(device) }
}

unsafe fn put<T>(out: *mut T, value: T) -> Result<(), Status> {
    if out.is_null() {
        return Err(INVALID_ARGUMENT);
    }
    // SAFETY: by the library's contract what is not null can be written.
    unsafe { out.write(value) };
    Ok(())
}

unsafe fn put_text(out: *mut c_char, length: c_uint, text: &str) -> Result<(), Status> {
    if out.is_null() || text.len() + 1 > length as usize {
        return Err(INSUFFICIENT_SIZE);
    }
    // SAFETY: there is room for the text and its end, as just seen.
    unsafe {
        out.copy_from_nonoverlapping(text.as_ptr().cast(), text.len());
        out.add(text.len()).write(0);
    }
    Ok(())
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> Status {
    if std::env::var("FAKE_NVML").as_deref() == Ok("gone") {
        return DRIVER_NOT_LOADED;
    }
    INITIALISED.fetch_add(1, Ordering::AcqRel);
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> Status {
    status(ready().inspect(|()| {
        INITIALISED.fetch_sub(1, Ordering::AcqRel);
    }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) -> Status {
    // SAFETY: as the caller promises.
    status(ready().and_then(|()| unsafe { put_text(version, length, "575.57.08") }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> Status {
    // SAFETY: as the caller promises.
    status(ready().and_then(|()| unsafe { put(count, gpus().len() as c_uint) }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, handle: *mut Handle) -> Status {
    let found = ready().and_then(|()| gpus().get(index as usize).ok_or(INVALID_ARGUMENT));
    // SAFETY: as the caller promises.
    status(found.and_then(|device| if device.is_lost { Err(GPU_IS_LOST) } else { unsafe { put(handle, device) } }))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetUUID(handle: Handle, uuid: *mut c_char, length: c_uint) -> Status {
    // SAFETY: as the caller promises.
    status(unsafe { device(handle).and_then(|device| put_text(uuid, length, device.uuid)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigMode(handle: Handle, current: *mut c_uint, pending: *mut c_uint) -> Status {
    // SAFETY: as the caller promises.
    status(unsafe {
        device(handle).and_then(|device| {
            let mode = c_uint::from(!device.instances.is_empty());
            put(current, mode).and_then(|()| put(pending, mode))
        })
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxMigDeviceCount(handle: Handle, count: *mut c_uint) -> Status {
    // SAFETY: as the caller promises.
    status(unsafe { device(handle).and_then(|_| put(count, 7)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(
    handle: Handle,
    index: c_uint,
    found: *mut Handle,
) -> Status {
    // SAFETY: as the caller promises.
    status(unsafe {
        device(handle).and_then(|device| {
            let instance = device.instances.get(index as usize).ok_or(NOT_FOUND)?;
            put(found, instance)
        })
    })
}

/// `nvmlMemory_v2_t`.
#[repr(C)]
pub struct Memory {
    version: c_uint,
    total: c_ulonglong,
    reserved: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

/// `NVML_STRUCT_VERSION(Memory, 2)`.
const MEMORY_VERSION: c_uint = size_of::<Memory>() as c_uint | 2 << 24;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(handle: Handle, memory: *mut Memory) -> Status {
    // SAFETY: as the caller promises.
    status(unsafe {
        device(handle).and_then(|device| {
            let asked = memory.as_mut().ok_or(INVALID_ARGUMENT)?;
            if asked.version != MEMORY_VERSION {
                return Err(INVALID_ARGUMENT);
            }
            (asked.total, asked.reserved, asked.used) = (device.total, device.reserved, 0);
            asked.free = device.total - device.reserved;
            Ok(())
        })
    })
}
