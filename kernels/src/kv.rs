//! Keys and values of one layer: preallocated, written in place.
//!
//! **Invariant:** nobody else holds the tensors, so that an operation which takes them by value
//! and gives them back writes in place. There is no way to get at them from outside.

use crate::matrix::of_words;
use burn::tensor::{Bytes, DType, Device, Tensor, TensorData};

/// Positions in a block, the unit in which KV memory is given out.
pub const BLOCK_TOKENS: usize = 32;

/// Precision of keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KvFormat {
    /// binary32: the reference path.
    F32,
    /// binary16.
    F16,
    /// Signed bytes, with a float32 scale for each position of each head. A number is off by at most 1/254 of the largest in
    /// its row.
    Q8,
}

impl KvFormat {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
            Self::Q8 => 1,
        }
    }

    /// Bytes of one head's keys or values in one block.
    fn head_bytes(self, head_dim: usize) -> usize {
        let scales = if self == Self::Q8 { BLOCK_TOKENS * size_of::<f32>() } else { 0 };
        head_dim * BLOCK_TOKENS * self.bytes() + scales
    }
}

/// One layer's keys `[block, kv_head, head_dim, block_tokens]` and values
/// `[block, kv_head, block_tokens, head_dim]`: each where attention's inner loop wants it. In 8 bits the scales of a head's
/// block follow its numbers. A CubeCL device has the same bytes, in words of 32 bits.
#[derive(Debug)]
pub struct KvLayer {
    /// Absent only while an operation has them.
    tensors: Option<(Tensor<4>, Tensor<4>)>,
    blocks: usize,
    kv_heads: usize,
    head_dim: usize,
    format: KvFormat,
}

impl KvLayer {
    /// Zeros that take no memory before they are written, but on a CubeCL device all of it at once.
    pub fn new(blocks: usize, kv_heads: usize, head_dim: usize, format: KvFormat, device: &Device) -> Self {
        let of = |tensors| Self { tensors: Some(tensors), blocks, kv_heads, head_dim, format };
        if of_words(device) {
            // Words in one row, which no device pads.
            let words = blocks * kv_heads * format.head_bytes(head_dim) / size_of::<u32>();
            assert!(u32::try_from(words).is_ok(), "a kernel counts a layer's keys to 2^32 words");
            let zeros = || Tensor::zeros([1, 1, 1, words], (device, DType::F32));
            return of((zeros(), zeros()));
        }
        let dtype = match format {
            KvFormat::F16 => DType::F16,
            // Tensors of floats hold floats: bytes lie in them four by four, and nobody computes with these.
            KvFormat::F32 | KvFormat::Q8 => DType::F32,
        };
        let elements = format.head_bytes(head_dim) / dtype.size();
        let (keys, values) = match format {
            KvFormat::Q8 => ([blocks, kv_heads, elements, 1], [blocks, kv_heads, elements, 1]),
            KvFormat::F32 | KvFormat::F16 => {
                ([blocks, kv_heads, head_dim, BLOCK_TOKENS], [blocks, kv_heads, BLOCK_TOKENS, head_dim])
            }
        };
        of((untouched(keys, dtype, device), untouched(values, dtype, device)))
    }

    /// Bytes of one block, keys and values together.
    pub fn block_bytes(kv_heads: usize, head_dim: usize, format: KvFormat) -> usize {
        2 * kv_heads * format.head_bytes(head_dim)
    }

    /// Blocks there are.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Heads of keys and values.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Elements of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Precision of the elements.
    pub fn format(&self) -> KvFormat {
        self.format
    }

    /// Lends keys and values to `operation`, which gives them back written.
    pub(crate) fn lend<R>(&mut self, operation: impl FnOnce(Tensor<4>, Tensor<4>) -> (R, Tensor<4>, Tensor<4>)) -> R {
        let (keys, values) = self.tensors.take().expect("no operation on this layer panicked before");
        let (result, keys, values) = operation(keys, values);
        self.tensors = Some((keys, values));
        result
    }
}

/// Zeros straight from the system, so that a page takes memory only once it is written. `Tensor::zeros` will not do: it
/// copies what it allocated to align it, and touches every page.
fn untouched(shape: [usize; 4], dtype: DType, device: &Device) -> Tensor<4> {
    // Bytes of the alignment Burn asks for, of which a block has a whole number: it is 32 positions wide.
    const UNIT: usize = size_of::<u128>();
    let bytes = shape.iter().product::<usize>() * dtype.size();
    let zeros = Bytes::from_elems(vec![0u128; bytes / UNIT]);
    Tensor::from_data(TensorData::from_bytes(zeros, shape, dtype), (device, dtype))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    fn resident_bytes() -> usize {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: usize = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
        pages * 4096
    }

    #[test]
    fn a_pool_takes_no_memory_before_it_is_written() {
        let (blocks, half_a_gibibyte) = (1 << 16, 1 << 29);
        let before = resident_bytes();
        let layer = KvLayer::new(blocks, 4, 64, KvFormat::F16, &Device::flex());
        assert_eq!(blocks * KvLayer::block_bytes(4, 64, KvFormat::F16), 4 * half_a_gibibyte);
        assert!(resident_bytes() < before + half_a_gibibyte, "the pool's pages were touched");
        drop(layer);
    }
}
