//! A weight: a Burn tensor of the stored bytes, and how to read them.
//!
//! **Invariant:** the shape has been checked against the bytes. Bytes of a mapping are not copied:
//! the tensor points into it and keeps it alive. A CubeCL device has its own copy, as words of 32 bits.

use crate::{Error, Format, Packing, TILE_ROWS};
use burn::backend::AllocationProperty;
use burn::module::Module;
use burn::tensor::{Bytes, DType, Device, Int, Tensor, TensorData};

/// A matrix `[n, k]` as stored; a Burn module without parameters to train.
#[derive(Module, Debug)]
pub struct Matrix {
    bytes: Tensor<2, Int>,
    #[module(skip)]
    format: Format,
    #[module(skip)]
    packing: Packing,
    #[module(skip)]
    n: usize,
    #[module(skip)]
    k: usize,
}

impl Matrix {
    /// Zero-copy from shared bytes, such as a part of a mapping; `bytes` holds `n` rows of
    /// [`Format::row_bytes`] each and nothing else. f32, f16 and bf16 are fastest when aligned to
    /// their size.
    ///
    /// # Errors
    /// Where shape, format and length do not go together.
    pub fn from_bytes(bytes: bytes::Bytes, format: Format, n: usize, k: usize, device: &Device) -> Result<Self, Error> {
        Self::packed(bytes, format, Packing::Rows, n, k, device)
    }

    /// The same of bytes laid out as `packing` says, [`Packing::bytes`] of them; fastest when aligned to 64. A CubeCL device gets a
    /// copy, in rows.
    ///
    /// # Errors
    /// As [`Matrix::from_bytes`].
    pub fn packed(
        bytes: bytes::Bytes,
        format: Format,
        packing: Packing,
        n: usize,
        k: usize,
        device: &Device,
    ) -> Result<Self, Error> {
        if n == 0 || k == 0 {
            return Err(Error::Empty { n, k });
        }
        if !packing.takes(format, k) {
            return Err(Error::Block { format, k });
        }
        if packing.bytes(format, n, k) != Some(bytes.len()) {
            return Err(Error::Bytes { format, n, k, bytes: bytes.len() });
        }
        if of_words(device) {
            let rows = unpacked(bytes, format, packing, n, k);
            return Ok(Self { bytes: words(&rows, device), format, packing: Packing::Rows, n, k });
        }
        let parts = match packing {
            Packing::Rows => n,
            Packing::Tiles16 => n.div_ceil(TILE_ROWS),
        };
        let shape = [parts, bytes.len() / parts];
        let bytes = Bytes::from_shared(bytes, AllocationProperty::File);
        let data = TensorData::from_bytes(bytes, shape, DType::U8);
        Ok(Self { bytes: Tensor::from_data(data, (device, DType::U8)), format, packing, n, k })
    }

    /// In rows, of a CubeCL device's words.
    pub(crate) fn of_words(bytes: Tensor<2, Int>, format: Format, n: usize, k: usize) -> Self {
        Self { bytes, format, packing: Packing::Rows, n, k }
    }

    /// The stored bytes, a row or tile in each row, u8; on a CubeCL device all of them in one row of words, u32.
    pub fn bytes(&self) -> &Tensor<2, Int> {
        &self.bytes
    }

    /// How the bytes are read.
    pub fn format(&self) -> Format {
        self.format
    }

    /// How the bytes are laid out.
    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// Rows: outputs of `linear`, entries of an embedding.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Elements of a row.
    pub fn k(&self) -> usize {
        self.k
    }
}

/// Whether matrices, keys and values are words there: CubeCL's devices.
pub(crate) fn of_words(device: &Device) -> bool {
    #[cfg(feature = "cube")]
    return matches!(device.as_dispatch(), burn::backend::DispatchDevice::Cube(_));
    #[cfg(not(feature = "cube"))]
    {
        let _ = device;
        false
    }
}

/// The rows as their format has them, one after the other.
fn unpacked(bytes: bytes::Bytes, format: Format, packing: Packing, n: usize, k: usize) -> bytes::Bytes {
    if packing == Packing::Rows {
        return bytes;
    }
    let row_bytes = format.row_bytes(k).expect("checked with the packing");
    let mut rows = vec![0; n * row_bytes];
    rows.chunks_exact_mut(row_bytes).enumerate().for_each(|(i, row)| packing.row(format, k, &bytes, i, row));
    rows.into()
}

/// `[1, words] u32`: kernels look at a word beyond the one that they want.
fn words(bytes: &[u8], device: &Device) -> Tensor<2, Int> {
    let count = words_for(bytes.len());
    let mut padded = vec![0u32; count];
    bytemuck::cast_slice_mut(&mut padded)[..bytes.len()].copy_from_slice(bytes);
    Tensor::from_data(TensorData::new(padded, [1, count]), (device, DType::U32))
}

/// How many words a matrix of so many bytes is.
///
/// # Panics
/// Where a kernel cannot count its bytes.
pub(crate) fn words_for(bytes: usize) -> usize {
    let count = bytes.div_ceil(size_of::<u32>()) + 1;
    assert!(u32::try_from(count * size_of::<u32>()).is_ok(), "a kernel counts a matrix's bytes to 4 GiB");
    count
}
