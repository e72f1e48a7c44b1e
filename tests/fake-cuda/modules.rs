//! Modules and functions: their source is kept for `ptxas`, and launching does nothing.

use crate::{INVALID_HANDLE, SUCCESS, Status};
use std::{
    ffi::{CStr, CString, c_char, c_int, c_uint, c_void},
    sync::atomic::{AtomicUsize, Ordering},
};

static LOADED: AtomicUsize = AtomicUsize::new(0);

/// How many modules were loaded so far.
#[unsafe(no_mangle)]
pub extern "C" fn fakeCudaLoaded() -> usize {
    LOADED.load(Ordering::Relaxed)
}

/// `image` is PTX: text that ends with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut *mut c_void, image: *const c_void) -> Status {
    let number = LOADED.fetch_add(1, Ordering::Relaxed) + 1;
    if let Some(folder) = std::env::var_os("FAKE_CUDA_PTX") {
        let source = unsafe { CStr::from_ptr(image.cast()) };
        let file = std::path::Path::new(&folder).join(format!("{}-{number}.ptx", std::process::id()));
        std::fs::write(&file, source.to_bytes()).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    unsafe { module.write(number as *mut c_void) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut *mut c_void,
    image: *const c_void,
    _count: c_uint,
    _options: *mut c_int,
    _values: *mut *mut c_void,
) -> Status {
    unsafe { cuModuleLoadData(module, image) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuModuleUnload(_module: *mut c_void) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: *mut *mut c_void,
    module: *mut c_void,
    name: *const c_char,
) -> Status {
    if module.is_null() {
        return INVALID_HANDLE;
    }
    let name: CString = unsafe { CStr::from_ptr(name) }.into();
    unsafe { function.write(name.into_raw().cast()) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuFuncSetAttribute(_function: *mut c_void, _attribute: c_int, _value: c_int) -> Status {
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchKernel(
    function: *mut c_void,
    _grid_x: c_uint,
    _grid_y: c_uint,
    _grid_z: c_uint,
    _block_x: c_uint,
    _block_y: c_uint,
    _block_z: c_uint,
    _shared: c_uint,
    _stream: *mut c_void,
    _arguments: *mut *mut c_void,
    _extra: *mut *mut c_void,
) -> Status {
    if function.is_null() { INVALID_HANDLE } else { SUCCESS }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(_error: Status, name: *mut *const c_char) -> Status {
    unsafe { name.write(c"an error of the stand-in".as_ptr()) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(error: Status, text: *mut *const c_char) -> Status {
    unsafe { cuGetErrorName(error, text) }
}
