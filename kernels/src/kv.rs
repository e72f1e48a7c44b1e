//! Keys and values of one layer: preallocated, written in place.
//!
//! **Invariant:** nobody else holds the tensors, so that an operation which takes them by value
//! and gives them back writes in place. There is no way to get at them from outside.

use crate::matrix::of_words;
use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{Bytes, DType, Device, Tensor, TensorData};
use bytemuck::cast_slice_mut;
use half::f16;

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

    /// The word of the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8 => "q8",
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

    /// Copies one block's keys, then its values, to `out`, which has [`KvLayer::block_bytes`]: what [`KvLayer::write_block`] takes on any
    /// machine that computes with the same format.
    ///
    /// # Panics
    /// Where there is no such block, `out` has another length, or the layer is not in the host's memory.
    pub fn read_block(&mut self, block: usize, out: &mut [u8]) {
        self.with_block(block, out.len(), |keys, values| {
            let (to_keys, to_values) = out.split_at_mut(keys.len());
            to_keys.copy_from_slice(keys);
            to_values.copy_from_slice(values);
        });
    }

    /// Puts back what [`KvLayer::read_block`] gave.
    ///
    /// # Panics
    /// As that.
    pub fn write_block(&mut self, block: usize, bytes: &[u8]) {
        self.with_block(block, bytes.len(), |keys, values| {
            let (from_keys, from_values) = bytes.split_at(keys.len());
            keys.copy_from_slice(from_keys);
            values.copy_from_slice(from_values);
        });
    }

    fn with_block(&mut self, block: usize, bytes: usize, work: impl FnOnce(&mut [u8], &mut [u8])) {
        let each = self.kv_heads * self.format.head_bytes(self.head_dim);
        assert!(block < self.blocks, "block {block} of {}", self.blocks);
        assert_eq!(bytes, 2 * each, "bytes of a block");
        self.lend(|keys, values| {
            let flex = |tensor: Tensor<4>| tensor.try_into_primitive::<Flex>().expect("keys and values on the CPU");
            let (mut keys, mut values) = (flex(keys), flex(values));
            let part = block * each..(block + 1) * each;
            work(&mut bytes_of(&mut keys)[part.clone()], &mut bytes_of(&mut values)[part]);
            let tensor = |flex| Tensor::from_primitive::<Flex>(flex);
            ((), tensor(keys), tensor(values))
        });
    }

    /// Lends keys and values to `operation`, which gives them back written.
    pub(crate) fn lend<R>(&mut self, operation: impl FnOnce(Tensor<4>, Tensor<4>) -> (R, Tensor<4>, Tensor<4>)) -> R {
        let (keys, values) = self.tensors.take().expect("no operation on this layer panicked before");
        let (result, keys, values) = operation(keys, values);
        self.tensors = Some((keys, values));
        result
    }
}

fn bytes_of(tensor: &mut FlexTensor) -> &mut [u8] {
    match tensor.dtype() {
        DType::F16 => cast_slice_mut(tensor.storage_mut::<f16>()),
        _ => cast_slice_mut(tensor.storage_mut::<f32>()),
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
    fn a_block_is_what_it_was_in_another_place_of_another_layer() {
        for format in [KvFormat::F32, KvFormat::F16, KvFormat::Q8] {
            let device = Device::flex();
            let bytes = KvLayer::block_bytes(2, 16, format);
            let (mut from, mut to) = (KvLayer::new(3, 2, 16, format, &device), KvLayer::new(5, 2, 16, format, &device));
            let content: Vec<u8> = (0..bytes).map(|i| (i * 31 % 251) as u8).collect();
            from.write_block(1, &content);
            let mut read = vec![0; bytes];
            from.read_block(1, &mut read);
            to.write_block(4, &read);
            let blocks = |layer: &mut KvLayer, block| {
                let mut out = vec![1; bytes];
                layer.read_block(block, &mut out);
                out
            };
            assert_eq!(blocks(&mut to, 4), content, "{format:?}");
            assert!([0, 1, 2, 3].iter().all(|&block| blocks(&mut to, block) == vec![0; bytes]), "{format:?}");
            assert!([0, 2].iter().all(|&block| blocks(&mut from, block) == vec![0; bytes]), "{format:?}");
        }
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
