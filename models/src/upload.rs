//! A model's matrices on their way onto a device: what goes where, in which order, and which layer waits for what.
//!
//! **Invariant:** pieces are whole chunks in the order of the file, which is that of first use; every byte that arrives was verified.

use crate::Error;
use burn::tensor::Device;
use kernels::{Format, Matrix, Place};
use snapshot::{EXTENT_BYTES, Snapshot};
use std::{ops::Range, sync::Arc, thread};
use transfer::{Arrivals, Part, Piece, Ring};

/// Staging buffers for each thread: one is filled while the other is copied.
const BUFFERS_PER_THREAD: usize = 2;

/// What is wanted of a snapshot, and where.
#[derive(Default)]
pub(crate) struct Plan {
    wanted: Vec<Wanted>,
    /// What is planned now is needed by this step of a pass.
    step: usize,
}

struct Wanted {
    step: usize,
    range: Range<u64>,
    to: Place,
}

impl Plan {
    /// What follows is needed by the next step.
    pub(crate) fn next_step(&mut self) {
        self.step += 1;
    }

    /// A matrix whose bytes are yet to come; `None` where the device computes on the mapping.
    pub(crate) fn matrix(
        &mut self,
        range: Range<u64>,
        format: Format,
        n: usize,
        k: usize,
        device: &Device,
    ) -> Result<Option<Matrix>, kernels::Error> {
        let Some((matrix, to)) = Matrix::unwritten(format, n, k, device)? else { return Ok(None) };
        self.wanted.push(Wanted { step: self.step, range, to });
        Ok(Some(matrix))
    }

    /// Starts to bring it; `None` where nothing is wanted.
    pub(crate) fn start(self, snapshot: &Arc<Snapshot>, device: &Device) -> Result<Option<Uploading>, Error> {
        let Some(whole) = cover(self.wanted.iter().map(|wanted| &wanted.range)) else { return Ok(None) };
        let ranges = snapshot.whole_chunks(whole.clone(), EXTENT_BYTES);
        let steps = (0..=self.step).map(|step| {
            let wanted = self.wanted.iter().filter(|wanted| wanted.step == step).map(|wanted| &wanted.range);
            cover(wanted).map_or(0..0, |range| pieces_of(&ranges, &range))
        });
        let steps = steps.collect();
        let pieces = ranges.into_iter().map(|range| Piece { parts: parts(&self.wanted, &range), range }).collect();
        let reader = snapshot.reader();
        let threads = reader.threads(&whole, thread::available_parallelism().map_or(1, usize::from));
        let ring = Ring { buffers: BUFFERS_PER_THREAD * threads, buffer_bytes: EXTENT_BYTES as usize, threads };
        let source = move |range: Range<u64>, to: &mut [u8]| reader.read(&range, to).map_err(Into::into);
        let arrivals =
            kernels::upload(device, pieces, source, ring).map_err(|error| Error::Device(error.to_string()))?;
        Ok(Some(Uploading { arrivals, steps }))
    }
}

/// From the first byte of all ranges to the last.
fn cover<'a>(ranges: impl Iterator<Item = &'a Range<u64>>) -> Option<Range<u64>> {
    ranges.cloned().reduce(|a, b| a.start.min(b.start)..a.end.max(b.end))
}

/// Which of the pieces, in the order of the file, hold a range.
fn pieces_of(pieces: &[Range<u64>], range: &Range<u64>) -> Range<usize> {
    pieces.partition_point(|piece| piece.end <= range.start)..pieces.partition_point(|piece| piece.start < range.end)
}

/// What of a piece is wanted.
fn parts(wanted: &[Wanted], piece: &Range<u64>) -> Vec<Part<Place>> {
    let part = |wanted: &Wanted| {
        let Range { start, end } = &wanted.range;
        let (from, until) = (piece.start.max(*start), piece.end.min(*end));
        let inside = |at: u64| (at - piece.start) as usize;
        let part = || Part { from: inside(from)..inside(until), to: wanted.to.clone(), at: (from - start) as usize };
        (from < until).then(part)
    };
    wanted.iter().filter_map(part).collect()
}

/// Weights on their way.
#[derive(Clone, Debug)]
pub struct Uploading {
    arrivals: Arrivals,
    /// The pieces that each step of a pass needs: the embedding, each layer, the head.
    steps: Vec<Range<usize>>,
}

impl Uploading {
    /// Blocks until all weights are on the device, every byte of them verified.
    ///
    /// # Errors
    /// A chunk is corrupt, the disk or the device fails: what was computed meanwhile is worth nothing.
    pub fn wait(&self) -> Result<(), Arc<transfer::Error>> {
        self.arrivals.wait_all()
    }

    /// Blocks until a step has its weights, or they will not come: whoever passes results on waits for all of them first.
    pub(crate) fn wait_for(&self, step: usize) {
        let _ = self.steps.get(step).map(|pieces| self.arrivals.wait(pieces.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_found_by_what_they_hold() {
        let pieces = [4096..100_000, 100_000..200_000, 200_000..250_000];
        assert_eq!(pieces_of(&pieces, &(4096..4097)), 0..1);
        assert_eq!(pieces_of(&pieces, &(99_999..100_001)), 0..2);
        assert_eq!(pieces_of(&pieces, &(100_000..200_000)), 1..2);
        assert_eq!(pieces_of(&pieces, &(4096..250_000)), 0..3);
    }
}
