//! The operations on Burn's CPU backend: unwraps tensors into slices for `cpu`.

use crate::KvFormat;
use crate::cpu::attention::attention;
use crate::cpu::dispatch::On;
use crate::cpu::kv::{self, Element, Heads};
use crate::cpu::linear::linears;
use crate::cpu::topk;
use crate::cpu::weight::Weight;
use crate::cpu::{elementwise, fused};
use crate::ops::{Gate, Kernels, MatrixShape, Scores, Segment};
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::backend::{Flex, TensorMetadata};
use burn::tensor::{Bytes, DType};
use bytemuck::cast_slice_mut;
use half::f16;
use std::sync::Arc;

impl Kernels for Flex {
    fn linear(x: FloatTensor<Self>, w: IntTensor<Self>, shape: MatrixShape) -> FloatTensor<Self> {
        let [out] = multiply(x, [(&w, shape)]);
        out
    }

    fn linear_2(
        x: FloatTensor<Self>,
        a: IntTensor<Self>,
        a_shape: MatrixShape,
        b: IntTensor<Self>,
        b_shape: MatrixShape,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let [a, b] = multiply(x, [(&a, a_shape), (&b, b_shape)]);
        (a, b)
    }

    fn linear_3(
        x: FloatTensor<Self>,
        a: IntTensor<Self>,
        a_shape: MatrixShape,
        b: IntTensor<Self>,
        b_shape: MatrixShape,
        c: IntTensor<Self>,
        c_shape: MatrixShape,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [a, b, c] = multiply(x, [(&a, a_shape), (&b, b_shape), (&c, c_shape)]);
        (a, b, c)
    }

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
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let x = normed(x, norm, eps);
        let [a, b, c] = multiply_slice(&x, [(&a, a_shape), (&b, b_shape), (&c, c_shape)]);
        (tensor_of(a, a_shape), tensor_of(b, b_shape), tensor_of(c, c_shape))
    }

    fn norm_gate(
        x: FloatTensor<Self>,
        norm: FloatTensor<Self>,
        eps: f32,
        gate: IntTensor<Self>,
        gate_shape: MatrixShape,
        up: IntTensor<Self>,
        up_shape: MatrixShape,
        by: Gate,
    ) -> FloatTensor<Self> {
        let x = normed(x, norm, eps);
        let m = x.len() / gate_shape.k;
        let (mut gated, mut ups) = (vec![0f32; m * gate_shape.n], vec![0f32; m * up_shape.n]);
        let weights = [&weight(&gate, gate_shape), &weight(&up, up_shape)];
        fused::gated(On::best(), &x, weights, by, (&mut gated, &mut ups));
        tensor_of(gated, gate_shape)
    }

    fn linear_add(
        x: FloatTensor<Self>,
        w: IntTensor<Self>,
        shape: MatrixShape,
        residual: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let x = x.to_contiguous();
        in_place(residual, |residual| {
            let mut out = vec![0f32; residual.len()];
            fused::linear_add(On::best(), x.storage(), &weight(&w, shape), residual, &mut out);
        })
    }

    fn gather(w: IntTensor<Self>, shape: MatrixShape, ids: Vec<u32>) -> FloatTensor<Self> {
        let weight = weight(&w, shape);
        let mut out = vec![0f32; ids.len() * shape.k];
        for (id, out) in ids.iter().zip(out.chunks_exact_mut(shape.k)) {
            weight.dequantize_row(*id as usize, out);
        }
        tensor(out, &[ids.len(), shape.k])
    }

    fn attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        mut keys: FloatTensor<Self>,
        mut values: FloatTensor<Self>,
        format: KvFormat,
        segments: Arc<[Segment]>,
        scores: Scores,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        debug_assert!(keys.is_unique() && values.is_unique(), "written in place");
        let (q_shape, kv_heads) = (q.shape(), k.shape()[1]);
        let heads = Heads { query: q_shape[1], kv: kv_heads, dim: q_shape[2] };
        let (cos, sin) = (whole(cos), whole(sin));
        let pairs = cos.shape()[1];
        let turned = |x, count| {
            in_place(x, |x| {
                elementwise::rotate(On::best(), x, (count, heads.dim), cos.storage(), sin.storage(), pairs);
            })
        };
        let (q, k, v) = (turned(q, heads.query), turned(k, heads.kv), v.to_contiguous());
        let rows = (q.storage::<f32>(), k.storage(), v.storage());
        let mut out = vec![0f32; rows.0.len()];
        write_and_attend(rows, (&mut keys, &mut values), format, heads, &segments, scores, &mut out);
        (tensor(out, &[q_shape[0], heads.query, heads.dim]), keys, values)
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        let weight = whole(weight);
        in_place(x, |x| elementwise::rms_norm(On::best(), x, weight.storage(), eps))
    }

    fn rotate(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        let (cos, sin) = (whole(cos), whole(sin));
        let (heads, dim, pairs) = (x.shape()[1], x.shape()[2], cos.shape()[1]);
        in_place(x, |x| {
            elementwise::rotate(On::best(), x, (heads, dim), cos.storage(), sin.storage(), pairs);
        })
    }

    fn silu_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let up = whole(up);
        let n = up.shape()[1];
        in_place(gate, |gate| elementwise::silu_mul(On::best(), gate, up.storage(), n))
    }

    fn gelu_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let up = whole(up);
        let n = up.shape()[1];
        in_place(gate, |gate| elementwise::gelu_mul(On::best(), gate, up.storage(), n))
    }

    fn top_k(x: FloatTensor<Self>, k: usize) -> (FloatTensor<Self>, IntTensor<Self>) {
        let x = whole(x);
        let [rows, n] = [x.shape()[0], x.shape()[1]];
        let (mut values, mut places) = (vec![0f32; rows * k], vec![0i32; rows * k]);
        topk::top_k(On::best(), x.storage(), n, k, &mut values, &mut places);
        let places = Bytes::from_elems(places);
        let layout = Layout::contiguous(vec![rows, k].into());
        (tensor(values, &[rows, k]), FlexTensor::new(places, layout, DType::I32))
    }
}

fn multiply<const W: usize>(x: FlexTensor, parts: [(&FlexTensor, MatrixShape); W]) -> [FlexTensor; W] {
    let x = x.to_contiguous();
    let mut shapes = parts.iter().map(|(_, shape)| *shape);
    let outs = multiply_slice(x.storage(), parts);
    outs.map(|out| tensor_of(out, shapes.next().expect("as many as parts")))
}

/// `x` normalised, apart from `x`.
fn normed(x: FlexTensor, weight: FlexTensor, eps: f32) -> Vec<f32> {
    let (x, weight) = (x.to_contiguous(), whole(weight));
    let mut out = x.storage::<f32>()[..x.layout().num_elements()].to_vec();
    elementwise::rms_norm(On::best(), &mut out, weight.storage(), eps);
    out
}

/// What a matrix of this shape gave.
fn tensor_of(out: Vec<f32>, shape: MatrixShape) -> FlexTensor {
    let rows = out.len() / shape.n;
    tensor(out, &[rows, shape.n])
}

fn multiply_slice<const W: usize>(x: &[f32], parts: [(&FlexTensor, MatrixShape); W]) -> [Vec<f32>; W] {
    let m = parts.first().map_or(0, |(_, shape)| x.len() / shape.k);
    let weights = parts.map(|(bytes, shape)| weight(bytes, shape));
    let mut outs = parts.map(|(_, shape)| vec![0f32; m * shape.n]);
    let mut each = weights.iter().zip(&mut outs);
    let calls: [_; W] = std::array::from_fn(|_| {
        let (weight, out) = each.next().expect("as many as parts");
        (weight, out.as_mut_slice())
    });
    linears(On::best(), x, calls);
    outs
}

/// Writes `k` and `v`, then `out [rows, query heads, dim]`; rows of no segment stay as they are.
pub(crate) fn write_and_attend(
    rows: (&[f32], &[f32], &[f32]),
    (keys, values): (&mut FlexTensor, &mut FlexTensor),
    format: KvFormat,
    heads: Heads,
    segments: &[Segment],
    scores: Scores,
    out: &mut [f32],
) {
    match format {
        KvFormat::F16 => {
            let kv = (keys.storage_mut::<f16>(), values.storage_mut());
            write_and_attend_in(rows, kv, heads, segments, scores, out);
        }
        KvFormat::Q8 => {
            let kv = (cast_slice_mut(keys.storage_mut::<f32>()), cast_slice_mut(values.storage_mut::<f32>()));
            write_and_attend_in::<i8>(rows, kv, heads, segments, scores, out);
        }
        KvFormat::F32 => {
            let kv = (keys.storage_mut::<f32>(), values.storage_mut());
            write_and_attend_in(rows, kv, heads, segments, scores, out);
        }
    }
}

fn write_and_attend_in<T: Element>(
    (q, k, v): (&[f32], &[f32], &[f32]),
    (keys, values): (&mut [T], &mut [T]),
    heads: Heads,
    segments: &[Segment],
    scores: Scores,
    out: &mut [f32],
) {
    kv::write(On::best(), (k, v), (keys, values), heads, segments);
    attention(On::best(), q, (keys, values), heads, segments, scores, out);
}

/// `x` with `work` done to its elements: in place where nobody else holds them.
fn in_place(x: FlexTensor, work: impl FnOnce(&mut [f32])) -> FlexTensor {
    let mut x = whole(x);
    work(x.storage_mut());
    x
}

/// A tensor whose storage is its elements in order and nothing else; `x` itself where it is that.
pub(crate) fn whole(x: FlexTensor) -> FlexTensor {
    let bytes = x.layout().num_elements() * x.dtype().size();
    let is_whole = x.is_contiguous() && x.layout().start_offset() == 0 && x.bytes().len() == bytes;
    if is_whole { x } else { x.to_contiguous() }
}

pub(crate) fn weight(w: &FlexTensor, shape: MatrixShape) -> Weight<'_> {
    assert!(w.is_contiguous() && w.layout().start_offset() == 0, "a weight is a whole tensor");
    let MatrixShape { format, packing, n, k } = shape;
    Weight::packed(w.bytes(), format, packing, n, k).expect("a matrix's shape was checked when it was made")
}

fn tensor(values: Vec<f32>, shape: &[usize]) -> FlexTensor {
    let layout = Layout::contiguous(shape.to_vec().into());
    FlexTensor::new(Bytes::from_elems(values), layout, DType::F32)
}
