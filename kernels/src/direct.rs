//! The operations on slices, for the CPU: what the implementation for Burn's `Flex` wraps, without tensors.
//!
//! **Contract:** the bits of the operations on tensors. What an operation needs beside its operands is kept by each thread and grows
//! to the largest that the thread has done (heads of more than 512 elements ask the allocator every time), so a graph that keeps its
//! memory decodes without the allocator. Shapes are checked; calls that break a contract panic.
//!
//! A graph is written over tensors, for any device; one that also knows these runs the same operations in the same order.

use crate::cpu::dispatch::On;
use crate::cpu::kv::Heads;
use crate::cpu::linear::linears;
use crate::cpu::weight::Weight;
use crate::cpu::{elementwise, fused};
use crate::flex::{weight, whole, write_and_attend};
use crate::ops::{check_segments, shape_of};
use crate::{Gate, KvLayer, Matrix, MatrixShape, Scores, Segment};
use burn::backend::Flex;
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Tensor};

/// A [`Matrix`] on the CPU.
#[derive(Clone, Debug)]
pub struct Weights {
    bytes: FlexTensor,
    shape: MatrixShape,
}

/// A vector `[n] f32` on the CPU.
#[derive(Clone, Debug)]
pub struct Values(FlexTensor);

impl Weights {
    /// The same bytes; `None` where they are on another device.
    pub fn of(matrix: &Matrix) -> Option<Self> {
        let bytes = matrix.bytes().clone().try_into_primitive::<Flex>().ok()?;
        let weights = Self { bytes, shape: shape_of(matrix) };
        weights.get();
        Some(weights)
    }

    /// Rows: outputs.
    pub fn n(&self) -> usize {
        self.shape.n
    }

    /// Elements of a row: inputs.
    pub fn k(&self) -> usize {
        self.shape.k
    }

    fn get(&self) -> Weight<'_> {
        weight(&self.bytes, self.shape)
    }
}

impl Values {
    /// The same numbers; `None` where they are on another device, or not f32.
    pub fn of(vector: &Tensor<1>) -> Option<Self> {
        let values = vector.clone().try_into_primitive::<Flex>().ok()?;
        (vector.dtype() == DType::F32).then(|| Self(whole(values)))
    }

    /// The numbers.
    pub fn as_slice(&self) -> &[f32] {
        self.0.storage()
    }
}

/// [`crate::gather`]: `out [ids, k]`.
///
/// # Panics
/// As that, and where `out` has another length.
pub fn gather(w: &Weights, ids: &[u32], out: &mut [f32]) {
    assert_eq!(out.len(), ids.len() * w.k(), "rows of the table");
    let weight = w.get();
    for (id, out) in ids.iter().zip(out.chunks_exact_mut(w.k())) {
        assert!((*id as usize) < w.n(), "row {id} of {}", w.n());
        weight.dequantize_row(*id as usize, out);
    }
}

/// [`crate::rms_norm`] of `x [rows, n]` to `out`.
///
/// # Panics
/// Where the lengths do not go together.
pub fn rms_norm(x: &[f32], weight: &Values, eps: f32, out: &mut [f32]) {
    let weight = weight.as_slice();
    assert!(x.len() == out.len() && x.len().is_multiple_of(weight.len()), "one weight per column");
    elementwise::rms_norm_of(On::best(), x, weight, eps, out);
}

/// [`crate::rms_norm`] of `x [rows, n]`, in place.
///
/// # Panics
/// As [`rms_norm`].
pub fn rms_norm_in_place(x: &mut [f32], weight: &Values, eps: f32) {
    let weight = weight.as_slice();
    assert!(x.len().is_multiple_of(weight.len()), "one weight per column");
    elementwise::rms_norm(On::best(), x, weight, eps);
}

/// `x [rows, n]` and `bias [n]`, in place.
///
/// # Panics
/// As [`rms_norm`].
pub fn add_bias(x: &mut [f32], bias: &Values) {
    assert!(x.len().is_multiple_of(bias.as_slice().len()), "one number per column");
    elementwise::add_bias(On::best(), x, bias.as_slice());
}

/// `x` and `y`, `[rows, n]` each, to `x`.
///
/// # Panics
/// Where the lengths differ.
pub fn add(x: &mut [f32], y: &[f32], n: usize) {
    assert_eq!(x.len(), y.len(), "shape of the other");
    elementwise::add(On::best(), x, y, n);
}

/// [`crate::linear`] of `x [m, k]` with each of the weights to its output `[m, n]`.
///
/// # Panics
/// Where the lengths do not go together.
pub fn linear<const W: usize>(x: &[f32], parts: [(&Weights, &mut [f32]); W]) {
    let weights = parts.each_ref().map(|(w, _)| w.get());
    let mut weights = weights.iter();
    linears(On::best(), x, parts.map(|(_, out)| (weights.next().expect("as many as parts"), out)));
}

/// [`crate::linear_add`] of `x [m, k]` to `stream [m, n]`; `product` is memory of the same length.
///
/// # Panics
/// Where the lengths do not go together.
pub fn linear_add(x: &[f32], w: &Weights, stream: &mut [f32], product: &mut [f32]) {
    fused::linear_add(On::best(), x, &w.get(), stream, product);
}

/// The gated product of `x [m, k]` to `gated [m, n]`; `ups` is memory of the same length.
///
/// # Panics
/// Where the lengths do not go together.
pub fn gated(x: &[f32], [gate, up]: [&Weights; 2], by: Gate, gated: &mut [f32], ups: &mut [f32]) {
    fused::gated(On::best(), x, [&gate.get(), &up.get()], by, (gated, ups));
}

/// [`crate::attention`] of `q [rows, heads, head_dim]`, turned in place as `k` is, to `out`; `turns` are cosines and sines
/// `[rows, pairs]`. Every row is a segment's.
///
/// # Panics
/// As that, where a row is no segment's, and where `kv` is on another device.
pub fn attention(
    [q, k]: [&mut [f32]; 2],
    v: &[f32],
    [cos, sin]: [&[f32]; 2],
    kv: &mut KvLayer,
    segments: &[Segment],
    scores: Scores,
    out: &mut [f32],
) {
    let (kv_heads, dim, format) = (kv.kv_heads(), kv.head_dim(), kv.format());
    let rows: usize = segments.iter().map(|segment| segment.rows).sum();
    if rows == 0 {
        return assert!(q.is_empty() && k.is_empty() && v.is_empty() && out.is_empty(), "every row is a segment's");
    }
    let heads = Heads { query: q.len() / (rows * dim), kv: kv_heads, dim };
    let pairs = cos.len() / rows;
    assert!(rows * kv_heads * dim == k.len() && v.len() == k.len(), "shapes of k and v");
    assert!(rows * heads.query * dim == q.len() && out.len() == q.len(), "shapes of q and out");
    assert!(heads.query.is_multiple_of(kv_heads), "{} query heads", heads.query);
    assert!(sin.len() == cos.len() && rows * pairs == cos.len() && 2 * pairs <= dim, "shapes of cosines and sines");
    check_segments(segments, rows, kv.blocks());
    elementwise::rotate(On::best(), q, (heads.query, dim), cos, sin, pairs);
    elementwise::rotate(On::best(), k, (kv_heads, dim), cos, sin, pairs);
    kv.lend(|keys, values| {
        let flex = |tensor: Tensor<4>| tensor.try_into_primitive::<Flex>().expect("keys and values on the CPU");
        let (mut keys, mut values) = (flex(keys), flex(values));
        write_and_attend((q, k, v), (&mut keys, &mut values), format, heads, segments, scores, out);
        let tensor = |flex| Tensor::from_primitive::<Flex>(flex);
        ((), tensor(keys), tensor(values))
    });
}
