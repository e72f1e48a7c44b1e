//! The operations on CubeCL's devices, CUDA and Vulkan among them: one kernel source for all, compiled for the device when it is
//! first used. Runs in tests on a Vulkan device made of software; was not run on a GPU.
//!
//! **Contract:** weights are in rows, as words of 32 bits, so that no device needs smaller types; activations are float32 and
//! stay so, for weights in blocks too. Operations that the CPU does at once are one after the other here. **Invariants:** a
//! row's bits depend on that row and its sequence alone, on one device; indices are checked in the kernels. **Absent:** tuning for
//! a device, matrix units, anything that is measured and remembered; and memory that a cube shares: units share through their
//! plane (CUDA's warp, Vulkan's subgroup). CubeCL 0.11.3 makes wrong SPIR-V of shared memory for devices that cannot lay it out
//! explicitly, of which the one in software is one.

mod attention;
mod bits;
mod blocks;
mod elementwise;
mod kv;
mod linear;
mod places;
mod superblocks;
mod tensor;
mod upload;
mod weight;

pub use upload::Place;
pub(crate) use upload::{unwritten_words, upload};

use crate::KvFormat;
use crate::ops::{Gate, Kernels, MatrixShape, Scores, Segment};
use attention::Rows;
use burn::backend::Cube;
use burn::backend::tensor::{FloatTensor, IntTensor};
use std::sync::Arc;

impl Kernels for Cube {
    fn linear(x: FloatTensor<Self>, w: IntTensor<Self>, shape: MatrixShape) -> FloatTensor<Self> {
        linear::linear(x, &w, shape, None)
    }

    fn linear_2(
        x: FloatTensor<Self>,
        a: IntTensor<Self>,
        a_shape: MatrixShape,
        b: IntTensor<Self>,
        b_shape: MatrixShape,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let x = tensor::whole(x);
        (linear::linear(x.clone(), &a, a_shape, None), linear::linear(x, &b, b_shape, None))
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
        let x = tensor::whole(x);
        let (a, b) = Self::linear_2(x.clone(), a, a_shape, b, b_shape);
        (a, b, linear::linear(x, &c, c_shape, None))
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
        Self::linear_3(elementwise::rms_norm(x, norm, eps), a, a_shape, b, b_shape, c, c_shape)
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
        let (gate, up) = Self::linear_2(elementwise::rms_norm(x, norm, eps), gate, gate_shape, up, up_shape);
        elementwise::gated(gate, up, by)
    }

    fn linear_add(
        x: FloatTensor<Self>,
        w: IntTensor<Self>,
        shape: MatrixShape,
        residual: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        linear::linear(x, &w, shape, Some(residual))
    }

    fn gather(w: IntTensor<Self>, shape: MatrixShape, ids: Vec<u32>) -> FloatTensor<Self> {
        linear::gather(&w, shape, &ids)
    }

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
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let rows = Rows { q, k, v, turns: [cos, sin] };
        let out = attention::attention(rows, [&keys, &values], format, &segments, scores);
        (out, keys, values)
    }

    fn rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f32) -> FloatTensor<Self> {
        elementwise::rms_norm(x, weight, eps)
    }

    fn rotate(x: FloatTensor<Self>, cos: FloatTensor<Self>, sin: FloatTensor<Self>) -> FloatTensor<Self> {
        elementwise::rotate(x, cos, sin)
    }

    fn silu_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        elementwise::gated(gate, up, Gate::Silu)
    }

    fn gelu_mul(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        elementwise::gated(gate, up, Gate::GeluTanh)
    }
}
