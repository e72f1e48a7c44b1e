//! The ends of a ring on CubeCL's devices: memory of its tensors, staging buffers, and writes that give them back.

use burn::backend::{AllocationProperty, Cube};
use burn::tensor::{Bytes, DType, Device, Int, Tensor};
use burn_cubecl::CubeDevice;
use burn_cubecl::cubecl::client::Client;
use burn_cubecl::cubecl::server::Handle;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, mpsc};
use transfer::{Arrivals, Error, Flight, Link, Part, Piece, Ring};

/// Memory of a tensor on a device.
#[derive(Clone)]
pub struct Place {
    handle: Handle,
    client: Client,
    device: CubeDevice,
    bytes: usize,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes on {:?}", self.bytes, self.device)
    }
}

/// `[1, words] u32` for `bytes` bytes and the word behind them that kernels look at, and where the bytes go.
pub(crate) fn unwritten_words(bytes: usize, device: &Device) -> Option<(Tensor<2, Int>, Place)> {
    let count = crate::matrix::words_for(bytes);
    let tensor = Tensor::<2, Int>::empty([1, count], (device, DType::U32));
    let words = tensor.clone().try_into_primitive::<Cube>().ok()?;
    let place = Place { handle: words.handle, client: words.client, device: words.device, bytes };
    Some((tensor, place))
}

/// See [`crate::upload()`].
pub(crate) fn upload<S>(device: &Device, pieces: Vec<Piece<Place>>, source: S, ring: Ring) -> Result<Arrivals, Error>
where
    S: Fn(Range<u64>, &mut [u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + Send + Sync + 'static,
{
    // Memory may be given out by the device's own queue: it is there before anybody else writes it.
    device.sync().map_err(|error| Error::Device(format!("making room: {error}")))?;
    let first = pieces.iter().flat_map(|piece| &piece.parts).next().map(|part| part.to.device.clone());
    match first {
        #[cfg(feature = "cuda")]
        Some(CubeDevice::Cuda(device)) => cuda::upload(device.index, pieces, source, ring),
        _ => transfer::start(Writes, pieces, source, ring),
    }
}

/// Bytes on a page of their own, as reading past the page cache wants them.
#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

// SAFETY: bytes, any bytes, without padding: the alignment is the size.
unsafe impl bytemuck::Zeroable for Page {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Page {}

/// Staging memory of the host.
struct Pages(Vec<Page>);

impl AsMut<[u8]> for Pages {
    fn as_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

/// CubeCL's writes. It keeps the bytes that it is given until it has written them.
struct Writes;

impl Link for Writes {
    type Staging = Pages;
    type Memory = Place;
    type Flight = Written;

    fn staging(&mut self, bytes: usize) -> Result<Pages, Error> {
        Ok(Pages(vec![Page([0; 4096]); bytes.div_ceil(size_of::<Page>())]))
    }

    fn send(&mut self, from: Pages, parts: Vec<Part<Place>>) -> Result<Written, Error> {
        let (back, landing) = mpsc::sync_channel(1);
        let lent = Arc::new(Lent { pages: Some(from), back });
        for Part { from, to, at } in &parts {
            if from.is_empty() {
                continue;
            }
            // Devices are written in words; behind the last there is room.
            let is_whole = at % 4 == 0 && (from.len() % 4 == 0 || at + from.len() == to.bytes);
            let behind = to.bytes.checked_sub(at + from.len()).filter(|_| is_whole);
            let behind = behind.ok_or_else(|| Error::Plan(format!("{} bytes at {at} of {to:?}", from.len())))?;
            let padding = to.handle.size_in_used() - to.bytes as u64;
            let there = to.handle.clone().offset_start(*at as u64).offset_end(behind as u64 + padding);
            let bytes = bytes::Bytes::from_owner(View { lent: lent.clone(), range: from.clone() });
            to.client.write(&there, Bytes::from_shared(bytes, AllocationProperty::Pinned));
        }
        // Whoever waits for the buffer waits for the writes, which wait for nobody then.
        let flushed = parts.first().map_or(Ok(()), |part| part.to.client.flush());
        flushed.map_err(|error| Error::Device(format!("writing: {error}")))?;
        Ok(Written { landing, _parts: parts })
    }
}

/// A buffer that writes read from; the last of them gives it back.
struct Lent {
    pages: Option<Pages>,
    back: mpsc::SyncSender<Pages>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(pages) = self.pages.take() {
            // Nobody waits for it where the transfer has failed.
            let _ = self.back.send(pages);
        }
    }
}

struct View {
    lent: Arc<Lent>,
    range: Range<usize>,
}

impl AsRef<[u8]> for View {
    fn as_ref(&self) -> &[u8] {
        let pages = self.lent.pages.as_ref().map_or(&[][..], |pages| &pages.0);
        &bytemuck::cast_slice(pages)[self.range.clone()]
    }
}

/// Writes under way.
struct Written {
    landing: mpsc::Receiver<Pages>,
    /// What keeps the memory that is written.
    _parts: Vec<Part<Place>>,
}

impl Flight for Written {
    type Staging = Pages;

    fn land(self) -> Result<Pages, Error> {
        self.landing.recv().map_err(|_| Error::Device("a write was given up".into()))
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    //! The same memory by its address, for copies of the driver's own.

    use super::Place;
    use burn_cubecl::cubecl::cuda::CudaRuntime;
    use cubecl_server::runtime::Runtime;
    use std::ops::Range;
    use std::sync::Arc;
    use transfer::cuda::{CudaLink, CudaMemory};
    use transfer::{Arrivals, Error, Part, Piece, Ring};

    pub(super) fn upload<S>(ordinal: usize, pieces: Vec<Piece<Place>>, source: S, ring: Ring) -> Result<Arrivals, Error>
    where
        S: Fn(Range<u64>, &mut [u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + Send + Sync + 'static,
    {
        let part = |Part { from, to, at }| Ok(Part { from, to: address(to)?, at });
        let addressed = |Piece { range, parts }: Piece<Place>| {
            let parts = parts.into_iter().map(part).collect::<Result<_, Error>>()?;
            Ok(Piece { range, parts })
        };
        let pieces = pieces.into_iter().map(addressed).collect::<Result<_, Error>>()?;
        transfer::start(CudaLink::new(ordinal)?, pieces, source, ring)
    }

    fn address(place: Place) -> Result<CudaMemory, Error> {
        let resource = place.client.get_resource::<<CudaRuntime as Runtime>::Server>(place.handle.clone());
        let resource = resource.map_err(|error| Error::Device(format!("finding a tensor's memory: {error}")))?;
        let (address, bytes) = (resource.resource().ptr, place.bytes);
        // SAFETY: the memory is the handle's, which keeps it, in the device's primary context, where CubeCL allocates; allocations were waited
        // for, and what computes waits for the arrivals.
        Ok(unsafe { CudaMemory::new(address, bytes, Arc::new(place.handle)) })
    }
}
