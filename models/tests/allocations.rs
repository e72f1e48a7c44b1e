//! A decode step asks the allocator for nothing, on any thread.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "support/mod.rs"]
mod files;

use kernels::BLOCK_TOKENS;
use models::{Batch, Kv, Logits, Model, SealOptions, Segment, Source, Target, Weights};
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's, counting.
struct Counting;

static CALLS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is done by the system's allocator, whose promises these are.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        CALLS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises.
        unsafe { System.realloc(at, layout, size) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// From the middle of a block over a block's border, beyond the first span of attention.
const POSITIONS: std::ops::Range<usize> = 270..310;
/// A thread's memory grows with the first task of a kind that it gets, and which thread gets it is chance.
const PASSES: usize = 50;

#[test]
fn a_decode_step_allocates_nothing() {
    let smollm2 = files::smollm2();
    let tiny = files::golden("qwen3-tiny");
    let smollm2 = smollm2.as_deref().map(|file| (file, Weights::Native));
    for (file, weights) in smollm2.into_iter().chain([(&*tiny, Weights::F32), (&*tiny, Weights::Native)]) {
        let model = restored(file, weights);
        // So many at once, by turns.
        for sequences in [&[1][..], &[3], &[3, 1]] {
            let blocks = POSITIONS.end.div_ceil(BLOCK_TOKENS);
            let mut kv = model.new_kv(3 * blocks);
            let mut logits = Logits::default();
            let mut turns = sequences.iter().cycle();
            let mut next = |position| batch(*turns.next().unwrap(), position, blocks);
            let batches: Vec<Batch> = POSITIONS.map(&mut next).collect();
            let mut pass = || calls(&model, &mut kv, &batches, &mut logits);
            let each: Vec<usize> = (0..PASSES).map(|_| pass()).take_while(|calls| *calls > 0).collect();
            assert!(each.len() < PASSES, "{}, {sequences:?} sequences: {each:?} allocations", file.display());
        }
    }
}

/// How often the allocator is called during the steps of all batches.
fn calls(model: &Model, kv: &mut Kv, batches: &[Batch], logits: &mut Logits) -> usize {
    let before = CALLS.load(Ordering::Relaxed);
    for batch in batches {
        model.forward_into(kv, batch, logits);
    }
    CALLS.load(Ordering::Relaxed) - before
}

fn batch(sequences: usize, position: usize, blocks: usize) -> Batch {
    let segment = |row: usize| {
        let blocks = (row * blocks..(row + 1) * blocks).map(|block| block as u32).collect();
        Segment { row, rows: 1, position, length: position + 1, blocks }
    };
    Batch {
        tokens: (0..sequences).map(|row| (row * 7 + position) as u32 % 90).collect(),
        segments: (0..sequences).map(segment).collect(),
        wanted: (0..sequences).collect(),
    }
}

fn restored(file: &Path, weights: Weights) -> Model {
    let scratch = tempfile::tempdir().unwrap();
    let sealed = scratch.path().join("model.snapshot");
    let options = SealOptions { model: "model".into(), weights, target: Target::here(), encrypt: None, guests: None };
    models::seal(&Source::open(file).unwrap(), &sealed, &options, &mut |_, _| {}).unwrap();
    Model::restore(&snapshot::Snapshot::open(&sealed).unwrap()).unwrap()
}
