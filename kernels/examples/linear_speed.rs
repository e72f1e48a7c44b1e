//! Times `linear` on the shapes of SmolLM2-135M (30 layers in Q4_1, head in Q8_0), or with `1b` on those of four layers of
//! Llama-3.2-1B, all weights apart in memory as in the model:
//! `cargo run --release --workspace --example linear_speed [FORMAT] [tiles16] [1b] [layers=N] [threads=N] [INSTRUCTIONS] [ROWS…]`,
//! where INSTRUCTIONS are `avx2`, say, for another kernel than the processor's best.
//! Prints the best of several passes over the whole model, and the sum of each operation's best,
//! which other load on the machine disturbs less.

use burn::tensor::{Device, Tensor};
use bytes::Bytes;
use kernels::{Format, Matrix, Packing, TILE_ROWS, linear};
use memmap2::{Advice, MmapMut};
use std::time::Instant;

const LAYERS: usize = 30;
const LAYER: [(usize, usize); 7] =
    [(576, 576), (192, 576), (192, 576), (576, 576), (1536, 576), (1536, 576), (576, 1536)];
const HEAD: (usize, usize) = (49152, 576);
const LAYERS_1B: usize = 4;
const LAYER_1B: [(usize, usize); 7] =
    [(2048, 2048), (512, 2048), (512, 2048), (2048, 2048), (8192, 2048), (8192, 2048), (2048, 8192)];
const PASSES: usize = 12;

fn matrix(format: Format, packing: Packing, (n, k): (usize, usize), device: &Device) -> Matrix {
    let mut row = vec![0; format.row_bytes(k).expect("whole blocks")];
    if Format::WRITTEN.contains(&format) {
        let values: Vec<f32> = (0..k).map(|i| (i as f32 * 0.7).sin()).collect();
        format.quantize_row(&values, &mut row);
    } else {
        // As binary16 a small number wherever a scale may be.
        row.fill(0x11);
    }
    let tile = match packing {
        Packing::Rows => row,
        Packing::Tiles16 => {
            let mut tile = vec![0; packing.bytes(format, TILE_ROWS, k).expect("whole chunks")];
            packing.pack(format, k, &row.repeat(TILE_ROWS), &mut tile);
            tile
        }
    };
    let bytes = packing.bytes(format, n, k).expect("whole chunks");
    Matrix::packed(in_huge_pages(&tile.repeat(bytes / tile.len())), format, packing, n, k, device).expect("right size")
}

/// In huge pages where the system has them, as a snapshot is: in small ones a processor foresees no further than to a page's end.
fn in_huge_pages(bytes: &[u8]) -> Bytes {
    let mut memory = MmapMut::map_anon(bytes.len()).expect("memory for the weights");
    // Advice.
    let _ = memory.advise(Advice::HugePage);
    memory.copy_from_slice(bytes);
    Bytes::from_owner(memory)
}

fn main() {
    let mut format = Format::Q4_1;
    let mut packing = Packing::Rows;
    let mut layers = (LAYERS, LAYER);
    let mut rows = Vec::new();
    for argument in std::env::args().skip(1) {
        if let Some(threads) = argument.strip_prefix("threads=") {
            kernels::set_threads(threads.parse().expect("a number of threads"));
        } else if let Some(named) = Format::from_name(&argument) {
            format = named;
        } else if let Some(named) = Packing::from_name(&argument) {
            packing = named;
        } else if kernels::instruction_sets().contains(&argument.as_str()) {
            kernels::set_instruction_set(&argument).expect("instructions of this processor");
        } else if let Some(count) = argument.strip_prefix("layers=") {
            layers.0 = count.parse().expect("a number of layers");
        } else if argument == "1b" {
            layers = (LAYERS_1B, LAYER_1B);
        } else {
            rows.push(argument.parse().expect("a number of rows, or a format"));
        }
    }
    if rows.is_empty() {
        rows = vec![1, 2, 4, 8, 16, 44, 512];
    }
    let device = Device::flex();
    let (count, layer) = layers;
    let shapes = (0..count).flat_map(|_| layer);
    let model: Vec<Matrix> = shapes.map(|shape| matrix(format, packing, shape, &device)).collect();
    let head = [matrix(Format::Q8_0, packing, HEAD, &device)];
    println!("{}, {} layers, {}", kernels::instruction_set(), format.name(), packing.name());
    measure("head, 1 row", 1, &head, &device);
    for m in rows {
        measure(&format!("layers, {m} rows"), m, &model, &device);
    }
}

fn measure(what: &str, m: usize, weights: &[Matrix], device: &Device) {
    let bytes: usize = weights.iter().map(|w| w.packing().bytes(w.format(), w.n(), w.k()).expect("checked")).sum();
    let operations: usize = weights.iter().map(|w| 2 * m * w.n() * w.k()).sum();
    let inputs: Vec<Tensor<2>> = weights.iter().map(|w| Tensor::ones([m, w.k()], device) * 0.5).collect();
    let mut pass = f64::INFINITY;
    let mut each = vec![f64::INFINITY; weights.len()];
    for _ in 0..PASSES {
        let mut total = 0.0;
        for ((x, w), best) in inputs.iter().zip(weights).zip(&mut each) {
            let x = x.clone();
            let start = Instant::now();
            std::hint::black_box(linear(x, w));
            let time = start.elapsed().as_secs_f64();
            total += time;
            *best = best.min(time);
        }
        pass = pass.min(total);
    }
    let best: f64 = each.iter().sum();
    println!(
        "{what}: best pass {:.3} ms, sum of bests {:.3} ms = {:.1} GB/s of weights, {:.0} Gop/s",
        pass * 1e3,
        best * 1e3,
        bytes as f64 / best / 1e9,
        operations as f64 / best / 1e9,
    );
}
