//! Weights onto a CubeCL device, piece by piece: matrices whose memory is there before their bytes are, and a ring that brings those.
//!
//! **Contract:** [`Matrix::unwritten`] makes a matrix and says where its bytes go; [`upload`] brings them, and says when which are there. Until then
//! a kernel that reads them computes nonsense and harms nothing. CUDA copies by the driver's own asynchronous copies from pinned memory; other devices by
//! CubeCL's writes, which take the bytes into staging memory of the device's own.

use crate::{Error, Format, Matrix};
use burn::tensor::Device;
use std::ops::Range;
use transfer::{Arrivals, Piece, Ring};

#[cfg(feature = "cube")]
pub use crate::cube::Place;

/// Where a matrix's bytes go. There is none without a CubeCL device.
#[cfg(not(feature = "cube"))]
#[derive(Clone, Debug)]
pub enum Place {}

/// Whether weights are brought to this device; on the CPU they are used where they are.
pub fn takes_uploads(device: &Device) -> bool {
    crate::matrix::of_words(device)
}

impl Matrix {
    /// A matrix `[n, k]` in rows, whose bytes are yet to be brought to where the second says; `None` where the device takes none.
    ///
    /// # Errors
    /// Where shape and format do not go together.
    pub fn unwritten(format: Format, n: usize, k: usize, device: &Device) -> Result<Option<(Self, Place)>, Error> {
        if n == 0 || k == 0 {
            return Err(Error::Empty { n, k });
        }
        let row_bytes = format.row_bytes(k).ok_or(Error::Block { format, k })?;
        if !takes_uploads(device) {
            return Ok(None);
        }
        Ok(made(row_bytes * n, device).map(|(bytes, place)| (Self::of_words(bytes, format, n, k), place)))
    }
}

#[cfg(feature = "cube")]
use crate::cube::unwritten_words as made;

#[cfg(not(feature = "cube"))]
fn made(_bytes: usize, _device: &Device) -> Option<(burn::tensor::Tensor<2, burn::tensor::Int>, Place)> {
    None
}

type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Brings pieces to the device, in their order; `source` fills a staging buffer with a range of bytes, on several threads.
///
/// # Errors
/// As [`transfer::start`]; the device cannot be used.
pub fn upload<S>(device: &Device, pieces: Vec<Piece<Place>>, source: S, ring: Ring) -> Result<Arrivals, transfer::Error>
where
    S: Fn(Range<u64>, &mut [u8]) -> Result<(), SourceError> + Send + Sync + 'static,
{
    #[cfg(feature = "cube")]
    return crate::cube::upload(device, pieces, source, ring);
    #[cfg(not(feature = "cube"))]
    {
        let _ = (device, pieces, source, ring);
        Err(transfer::Error::Device("this build computes on the CPU alone".into()))
    }
}
