//! CUDA: pinned staging buffers, copies on a stream of their own, and an event behind each.
//!
//! **Contract:** works in the device's primary context, which other libraries of the process share, beside their streams. Memory is the
//! caller's; what computes with it waits for [`Arrivals`](crate::Arrivals) on the host, so no stream need know of another.
//! The driver's library is looked for before it is called. Not run on a GPU: `tests/fake-cuda` stands in for the driver.
#![allow(unsafe_code)]

use crate::{Error, Flight, Link, Part};
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, DriverError, PinnedHostSlice, result, sys};
use std::{any::Any, fmt, sync::Arc};

/// A device's way in.
#[derive(Debug)]
pub struct CudaLink {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
}

impl CudaLink {
    /// Of the device with this number, from 0, among those that the process sees.
    ///
    /// # Errors
    /// No driver, no such device, or the driver refuses.
    pub fn new(ordinal: usize) -> Result<Self, Error> {
        // SAFETY: loads and unloads a library that every user of the driver loads.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::Device("there is no CUDA driver here: libcuda.so is not found".into()));
        }
        let context = CudaContext::new(ordinal).map_err(|e| driver(&format!("opening device {ordinal}"), e))?;
        let stream = context.new_stream().map_err(|e| driver("making a stream", e))?;
        Ok(Self { context, stream })
    }
}

/// Memory of a CUDA device, and what keeps it.
#[derive(Clone)]
pub struct CudaMemory {
    address: u64,
    bytes: usize,
    _owner: Arc<dyn Any + Send + Sync>,
}

impl CudaMemory {
    /// `bytes` bytes at a device address.
    ///
    /// # Safety
    /// They are allocated in the primary context of the link's device for as long as `owner` lives, the allocation has been waited for where it
    /// is an asynchronous one, and nobody uses them before their piece has arrived.
    pub unsafe fn new(address: u64, bytes: usize, owner: Arc<dyn Any + Send + Sync>) -> Self {
        Self { address, bytes, _owner: owner }
    }
}

impl fmt::Debug for CudaMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes at {:#x}", self.bytes, self.address)
    }
}

/// Page-locked memory of the host.
pub struct Pinned(PinnedHostSlice<u8>);

impl AsMut<[u8]> for Pinned {
    fn as_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_slice().expect("an event that was never recorded is there")
    }
}

/// A copy on its way to a CUDA device.
pub struct CudaFlight {
    /// `None` once it has landed.
    under_way: Option<UnderWay>,
}

struct UnderWay {
    staging: Pinned,
    /// What keeps the memory that is written.
    _parts: Vec<Part<CudaMemory>>,
    written: CudaEvent,
}

impl Link for CudaLink {
    type Staging = Pinned;
    type Memory = CudaMemory;
    type Flight = CudaFlight;

    fn staging(&mut self, bytes: usize) -> Result<Pinned, Error> {
        let pinning = |e| driver(&format!("pinning {bytes} bytes of memory"), e);
        // Not write-combined, which is the library's default: what is read in is summed here, too.
        // SAFETY: all of it is written below, before it is given out.
        let mut pinned = unsafe { self.context.alloc_pinned_with_flags::<u8>(bytes, 0) }.map_err(pinning)?;
        let start = pinned.as_mut_ptr().map_err(pinning)?;
        // SAFETY: `bytes` bytes that have just been allocated and that nobody else has.
        unsafe { start.write_bytes(0, bytes) };
        Ok(Pinned(pinned))
    }

    fn send(&mut self, mut from: Pinned, parts: Vec<Part<CudaMemory>>) -> Result<CudaFlight, Error> {
        self.context.bind_to_thread().map_err(|e| driver("entering the context", e))?;
        let written = self.context.new_event(Some(sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC));
        let written = written.map_err(|e| driver("making an event", e))?;
        let sent = copy(&self.stream, from.as_mut(), &parts)
            .and_then(|()| written.record(&self.stream).map_err(|e| driver("recording an event", e)));
        if let Err(error) = sent {
            // Copies that were started before the failing one read the buffer until they are over.
            let _ = self.stream.synchronize();
            return Err(error);
        }
        Ok(CudaFlight { under_way: Some(UnderWay { staging: from, _parts: parts, written }) })
    }
}

fn copy(stream: &CudaStream, from: &[u8], parts: &[Part<CudaMemory>]) -> Result<(), Error> {
    for part in parts {
        let (bytes, to) = (&from[part.from.clone()], &part.to);
        if bytes.is_empty() {
            continue;
        }
        if part.at.checked_add(bytes.len()).is_none_or(|end| end > to.bytes) {
            return Err(Error::Plan(format!("{} bytes at {} of {to:?}", bytes.len(), part.at)));
        }
        // SAFETY: the destination is within memory that the part's owner keeps, as whoever made it promised; source and owner stay with the
        // flight, which waits for the copy before it gives either up, or with the caller, who waits where sending fails.
        unsafe { result::memcpy_htod_async(to.address + part.at as u64, bytes, stream.cu_stream()) }
            .map_err(|e| driver(&format!("copying {} bytes", bytes.len()), e))?;
    }
    Ok(())
}

impl Flight for CudaFlight {
    type Staging = Pinned;

    fn land(mut self) -> Result<Pinned, Error> {
        let UnderWay { staging, written, .. } = self.under_way.take().expect("a flight lands once");
        match written.synchronize() {
            Ok(()) => Ok(staging),
            Err(error) => {
                // Whether the device still reads it is not known: it is not given back to be written or freed.
                std::mem::forget(staging);
                Err(driver("copying", error))
            }
        }
    }
}

impl Drop for CudaFlight {
    fn drop(&mut self) {
        if let Some(UnderWay { staging, written, .. }) = self.under_way.take()
            && written.synchronize().is_err()
        {
            std::mem::forget(staging);
        }
    }
}

fn driver(doing: &str, error: DriverError) -> Error {
    // The number alone: asking the driver for words could fail once more.
    Error::Device(format!("{doing}: CUDA error {}", error.0 as u32))
}
