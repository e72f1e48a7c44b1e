//! The operations: one trait over Burn's backends, and thin functions over Burn's tensors.
//!
//! **Contract:** [`Kernels`] is implemented for `Flex`, Burn's CPU backend, in `flex`, and with a
//! feature for CubeCL's family of devices, in `cube`. The functions check shapes and bounds, so an
//! implementation can rely on them. Calls that break a contract panic: they are errors of the
//! program, never of its input.

use crate::{BLOCK_TOKENS, Format, KvFormat, KvLayer, Matrix, Packing};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Backend, Dispatch};
use burn::tensor::{DType, Tensor};
use std::sync::Arc;

/// Consecutive rows of one sequence in a batch.
#[derive(Clone, Debug)]
pub struct Segment {
    /// First row in the batch.
    pub row: usize,
    /// Number of rows.
    pub rows: usize,
    /// Position of the first row in its sequence.
    pub position: usize,
    /// Block table: block `i` holds the positions from `i * BLOCK_TOKENS` on.
    pub blocks: Vec<u32>,
}

/// How attention's scores are made: what differs from model to model and layer to layer.
#[derive(Clone, Copy, Debug)]
pub struct Scores {
    /// Products of queries and keys are multiplied by it.
    pub scale: f32,
    /// A position sees so many positions, its own included; `None`: all before it.
    pub window: Option<usize>,
}

impl Scores {
    /// Scaled, and nothing else.
    pub fn scaled(scale: f32) -> Self {
        Self { scale, window: None }
    }

    /// The first position that `position` sees.
    pub(crate) fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window.max(1)))
    }
}

/// A [`Matrix`]'s format and shape, for an implementation that has its bytes.
#[derive(Clone, Copy, Debug)]
pub struct MatrixShape {
    /// How the bytes are read.
    pub format: Format,
    /// How they are laid out.
    pub packing: Packing,
    /// Rows.
    pub n: usize,
    /// Elements of a row.
    pub k: usize,
}

/// Operations that Burn has not, or not in a form that serves a language model.
#[allow(clippy::too_many_arguments, reason = "an operation takes its tensors one by one")]
#[burn::backend::backend_extension(Flex, Cube: cfg(feature = "cube"))]
pub trait Kernels: Backend {
    /// `x [m, k] f32 · w [n, k]ᵀ → [m, n] f32`; `w` is the stored bytes.
    fn linear(x: FloatTensor<Self>, w: IntTensor<Self>, shape: MatrixShape) -> FloatTensor<Self>;

    /// `linear` of one `x` with two weights: quantised once, the threads called together once.
    fn linear_2(
        x: FloatTensor<Self>,
        a: IntTensor<Self>,
        a_shape: MatrixShape,
        b: IntTensor<Self>,
        b_shape: MatrixShape,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    /// `linear` of one `x` with three weights.
    fn linear_3(
        x: FloatTensor<Self>,
        a: IntTensor<Self>,
        a_shape: MatrixShape,
        b: IntTensor<Self>,
        b_shape: MatrixShape,
        c: IntTensor<Self>,
        c_shape: MatrixShape,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// `linear_3` of the normalised `x`.
    fn norm_linear_3(
        x: FloatTensor<Self>,
        norm: FloatTensor<Self>,
        eps: f32,
        a: IntTensor<Self>,
        a_shape: MatrixShape,
        b: IntTensor<Self>,
        b_shape: MatrixShape,
        c: IntTensor<Self>,
        c_shape: MatrixShape,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// The gated product of `linear_2` of the normalised `x`.
    fn norm_gate(
        x: FloatTensor<Self>,
        norm: FloatTensor<Self>,
        eps: f32,
        gate: IntTensor<Self>,
        gate_shape: MatrixShape,
        up: IntTensor<Self>,
        up_shape: MatrixShape,
        by: Gate,
    ) -> FloatTensor<Self>;

    /// `linear` of `x`, added to `residual [m, n]`.
    fn linear_add(
        x: FloatTensor<Self>,
        w: IntTensor<Self>,
        shape: MatrixShape,
        residual: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// Rows `ids` of `w`, dequantised: `[ids.len(), k] f32`.
    fn gather(w: IntTensor<Self>, shape: MatrixShape, ids: Vec<u32>) -> FloatTensor<Self>;

    /// Turns `q [rows, heads, head_dim]` and `k` as [`Kernels::rotate`] does, writes `k, v [rows, kv_heads, head_dim]` into
    /// `keys` and `values`, in place, and gives the attention of `q`, `keys` and `values`. `format` says what their bytes are.
    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        format: KvFormat,
        segments: Arc<[Segment]>,
        scores: Scores,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>);

    /// Each row of `x [rows, n]` as `x / sqrt(mean(x²) + eps) · weight [n]`.
    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self>;

    /// Turns elements `i` and `i + pairs` of every head of `x [rows, heads, head_dim]` by the
    /// angles of `cos, sin [rows, pairs]`; elements from `2 * pairs` on stay as they are.
    fn rotate(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self>;

    /// `silu(gate) · up`, `[rows, n]` each.
    fn silu_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;

    /// `gelu(gate) · up`, `[rows, n]` each, by the approximation with a tanh.
    fn gelu_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;

    /// The `k` largest of each row of `x [rows, n] f32`, and their places as i32, `[rows, k]` each; in the order of
    /// [`crate::top_k`]. Unless implemented it goes through memory.
    fn top_k(x: FloatTensor<Self>, k: usize) -> (FloatTensor<Self>, IntTensor<Self>) {
        crate::topk::through_memory::<Self>(x, k)
    }
}

/// The function of a gated product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Gate {
    /// As [`crate::silu_mul`].
    Silu,
    /// As [`crate::gelu_mul`].
    GeluTanh,
}

pub(crate) fn shape_of(w: &Matrix) -> MatrixShape {
    MatrixShape { format: w.format(), packing: w.packing(), n: w.n(), k: w.k() }
}

/// `x [m, k] f32 · w [n, k]ᵀ → [m, n] f32`. A row has the same bits alone or among others, and on
/// any number of threads.
///
/// On the CPU weights in blocks are multiplied with activations in 8 bits (one scale for 32 elements:
/// each activation is off by at most 1/254 of the block's largest). All else, f32, f16 and bf16
/// everywhere and blocks on CubeCL's devices, is float32 arithmetic throughout.
///
/// # Panics
/// Where `x` is not f32, or has other columns than `w`.
pub fn linear(x: Tensor<2>, w: &Matrix) -> Tensor<2> {
    check_columns(&x, w);
    let bytes = w.bytes().clone().into_dispatch();
    Tensor::from_dispatch(Dispatch::linear(x.into_dispatch(), bytes, shape_of(w)))
}

/// [`linear`] of one `x` with two weights, with the same bits, for less than two calls cost.
///
/// # Panics
/// As [`linear`].
pub fn linear_2(x: Tensor<2>, [a, b]: [&Matrix; 2]) -> [Tensor<2>; 2] {
    [a, b].into_iter().for_each(|w| check_columns(&x, w));
    let bytes = |w: &Matrix| w.bytes().clone().into_dispatch();
    let (a, b) = Dispatch::linear_2(x.into_dispatch(), bytes(a), shape_of(a), bytes(b), shape_of(b));
    [a, b].map(Tensor::from_dispatch)
}

/// [`linear`] of one `x` with three weights, with the same bits, for less than three calls cost.
///
/// # Panics
/// As [`linear`].
pub fn linear_3(x: Tensor<2>, [a, b, c]: [&Matrix; 3]) -> [Tensor<2>; 3] {
    [a, b, c].into_iter().for_each(|w| check_columns(&x, w));
    let bytes = |w: &Matrix| w.bytes().clone().into_dispatch();
    let (a_shape, b_shape, c_shape) = (shape_of(a), shape_of(b), shape_of(c));
    let (a, b, c) = Dispatch::linear_3(x.into_dispatch(), bytes(a), a_shape, bytes(b), b_shape, bytes(c), c_shape);
    [a, b, c].map(Tensor::from_dispatch)
}

pub(crate) fn check_columns(x: &Tensor<2>, w: &Matrix) {
    assert_eq!(x.dims()[1], w.k(), "columns of x and of the weight");
    assert_eq!(x.dtype(), DType::F32, "activations");
}

/// Rows `ids` of `w`, dequantised: `[ids.len(), k] f32`.
///
/// # Panics
/// Where an id is not below `w.n()`, or there are none.
pub fn gather(w: &Matrix, ids: &[u32]) -> Tensor<2> {
    assert!(!ids.is_empty(), "no rows to gather");
    for &id in ids {
        assert!((id as usize) < w.n(), "row {id} of {}", w.n());
    }
    let bytes = w.bytes().clone().into_dispatch();
    Tensor::from_dispatch(Dispatch::gather(bytes, shape_of(w), ids.to_vec()))
}

/// Turns queries and keys by `turns` (cosines and sines, as [`crate::rotate`] takes them), writes `k, v [rows, kv_heads,
/// head_dim]` at their positions, then causal grouped-query attention of `q [rows, heads, head_dim]` over each segment's keys.
/// All f32. Gives `[rows, heads, head_dim]`; a row of no segment is 0. `scores` says what is seen and how it is weighed.
///
/// # Panics
/// Where shapes do not agree, segments overlap or go past the rows, or a block table is too short
/// or names a block that `kv` has not.
pub fn attention(
    q: Tensor<3>,
    k: Tensor<3>,
    v: Tensor<3>,
    [cos, sin]: [Tensor<2>; 2],
    kv: &mut KvLayer,
    segments: &Arc<[Segment]>,
    scores: Scores,
) -> Tensor<3> {
    let [rows, heads, dim] = q.dims();
    assert_eq!(k.dims(), [rows, kv.kv_heads(), dim], "shape of k");
    assert_eq!(v.dims(), k.dims(), "shape of v");
    assert_eq!(dim, kv.head_dim(), "head dimension");
    let [turned, pairs] = cos.dims();
    assert_eq!((turned, sin.dims()), (rows, cos.dims()), "one cosine and sine per row and pair");
    assert!(2 * pairs <= dim, "a head of {dim} has not {pairs} pairs");
    assert!(heads.is_multiple_of(kv.kv_heads()), "{heads} query heads");
    for tensor in [&q, &k, &v] {
        assert_eq!(tensor.dtype(), DType::F32, "queries, keys and values");
    }
    check_segments(segments, rows, kv.blocks());
    let (segments, format) = (segments.clone(), kv.format());
    kv.lend(|keys, values| {
        let (out, keys, values) = Dispatch::attention(
            q.into_dispatch(),
            k.into_dispatch(),
            v.into_dispatch(),
            cos.into_dispatch(),
            sin.into_dispatch(),
            keys.into_dispatch(),
            values.into_dispatch(),
            format,
            segments,
            scores,
        );
        (Tensor::from_dispatch(out), Tensor::from_dispatch(keys), Tensor::from_dispatch(values))
    })
}

pub(crate) fn check_segments(segments: &[Segment], rows: usize, blocks: usize) {
    let mut next = 0;
    for segment in segments {
        assert!(segment.row >= next, "segments overlap or are out of order");
        next = segment.row + segment.rows;
        assert!(next <= rows, "a segment ends at row {next} of {rows}");
        let needed = (segment.position + segment.rows).div_ceil(BLOCK_TOKENS);
        let table = segment.blocks.get(..needed);
        let table = table.expect("a block table reaches the segment's last position");
        for &block in table {
            assert!((block as usize) < blocks, "block {block} of {blocks}");
        }
    }
}
