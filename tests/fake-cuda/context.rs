//! One device, one context, and what they say of themselves: the numbers are an H100's.

use crate::{INVALID_DEVICE, INVALID_VALUE, SUCCESS, Status, setting};
use std::ffi::{c_char, c_int, c_uint, c_void};

/// CUDA 12.8.
const VERSION: u64 = 12080;
const MEMORY: usize = 80 << 30;
/// What stands for the primary context.
const CONTEXT: usize = 0x10;

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_flags: c_uint) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> Status {
    unsafe { version.write(setting("FAKE_CUDA_VERSION", VERSION) as c_int) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> Status {
    unsafe { count.write(1) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> Status {
    if ordinal != 0 {
        return INVALID_DEVICE;
    }
    unsafe { device.write(0) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, _device: c_int) -> Status {
    unsafe { text(name, length, "Stand-in") }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetPCIBusId(id: *mut c_char, length: c_int, _device: c_int) -> Status {
    unsafe { text(id, length, "0000:01:00.0") }
}

unsafe fn text(to: *mut c_char, length: c_int, text: &str) -> Status {
    if length as usize <= text.len() {
        return INVALID_VALUE;
    }
    unsafe {
        to.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len());
        to.add(text.len()).write(0);
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) -> Status {
    unsafe { bytes.write(MEMORY) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> Status {
    unsafe {
        free.write(MEMORY);
        total.write(MEMORY);
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, _device: c_int) -> Status {
    let architecture = setting("FAKE_CUDA_ARCH", 90) as c_int;
    let found = match attribute {
        1..=3 => 1024,           // threads of a block, its x and y
        4 => 64,                 // its z
        5 => c_int::MAX,         // blocks of a grid along x
        6 | 7 => 65_535,         // along y and z
        10 => 32,                // threads of a warp
        16 => 132,               // multiprocessors
        75 => architecture / 10, // compute capability, major
        76 => architecture % 10, // minor
        97 => 227 << 10,         // shared memory of a block that asks for it
        115 => 1,                // asynchronous allocation
        _ => 0,
    };
    unsafe { value.write(found) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut *mut c_void, _device: c_int) -> Status {
    unsafe { context.write(CONTEXT as *mut c_void) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(_device: c_int) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(_context: *mut c_void) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context: *mut *mut c_void) -> Status {
    unsafe { context.write(CONTEXT as *mut c_void) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) -> Status {
    unsafe {
        least.write(0);
        greatest.write(0);
    }
    SUCCESS
}
