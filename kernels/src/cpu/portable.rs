//! Weights in blocks, for any processor: what the compiler makes of plain loops. One row of `x` is
//! a panel, so its elements stand in their order.

use super::activations::{Activations, Panel};
use super::scratch::Scratch;
use super::shared::Shared;
use super::weight::Weight;
use crate::Format;
use crate::format::BLOCK;
use half::f16;
use std::ops::Range;

/// Writes the outputs of the weight rows `rows` for every row of `x`.
pub(super) fn tiles(x: &Activations, w: &Weight, rows: Range<usize>, scratch: &mut Scratch, out: &Shared<f32>) {
    let blocks = w.k() / BLOCK;
    let Scratch { floats, bytes, .. } = scratch;
    floats.resize(floats.len().max(2 * blocks), 0.0);
    bytes.resize(bytes.len().max(w.k()), 0);
    let (d, m) = floats[..2 * blocks].split_at_mut(blocks);
    for n in rows {
        unpack(w.format(), w.row(n), &mut bytes[..w.k()], d, m);
        for x in x.panels() {
            // SAFETY: one element, of this weight row, which no other task has.
            let out = unsafe { out.part(x.row * w.n() + n..x.row * w.n() + n + 1) };
            out[0] = dot(&x, &bytes[..w.k()], d, m);
        }
    }
}

/// Integers as stored (nibbles from 0), scales and minimums of one row.
fn unpack(format: Format, row: &[u8], q: &mut [i8], d: &mut [f32], m: &mut [f32]) {
    let (q, _) = q.as_chunks_mut::<BLOCK>();
    let blocks = row.chunks_exact(format.block_bytes());
    for (((block, q), d), m) in blocks.zip(q).zip(d).zip(m) {
        let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
        *d = half(0);
        *m = 0.0;
        match format {
            Format::Q8_0 => q.iter_mut().zip(&block[2..]).for_each(|(q, &b)| *q = b as i8),
            Format::Q4_0 => nibbles(&block[2..], q),
            Format::Q4_1 => {
                *m = half(2);
                nibbles(&block[4..], q);
            }
            _ => unreachable!("multiplied in float32"),
        }
    }
}

fn nibbles(bytes: &[u8], q: &mut [i8; BLOCK]) {
    for (i, byte) in bytes.iter().enumerate() {
        q[i] = (byte & 15) as i8;
        q[i + BLOCK / 2] = (byte >> 4) as i8;
    }
}

/// One row of `x` with one of weights.
fn dot(x: &Panel, q: &[i8], d: &[f32], m: &[f32]) -> f32 {
    let xs = x.fours.as_flattened().as_chunks::<BLOCK>().0;
    let ws = q.as_chunks::<BLOCK>().0;
    let mut sum = 0.0;
    for (b, (xs, ws)) in xs.iter().zip(ws).enumerate() {
        let mut int = x.start[b];
        for (x, w) in xs.iter().zip(ws) {
            int += i32::from(*x) * i32::from(*w);
        }
        sum += int as f32 * (d[b] * x.d[b]);
        sum += m[b] * x.sum[b];
    }
    sum
}
