//! How fast memory is read.

use crate::cpu::dispatch::{Level, On, leveled};
use memmap2::{Advice, MmapMut};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// A cache line.
type Line = [u64; 8];

/// Lines of a task: so few that no thread waits long for the last, so many that their number does not matter (1 MiB).
const LINES_PER_TASK: usize = 1 << 14;
/// Places of a task that are read side by side.
const STREAMS: usize = 4;
/// So many lines ahead they are asked for: what a processor foresees by itself can be a quarter of what it reads when told
/// (measured on an AMD EPYC in a virtual machine: 13 GB/s and 54 GB/s).
const AHEAD: usize = 16;

/// Memory to be read again and again, in huge pages where the system has them: some virtual machines read small ones at a third of the speed. It says
/// something about memory where it is much larger than the processor's caches.
pub struct Memory {
    map: MmapMut,
}

impl Memory {
    /// So many bytes, rounded up to whole tasks, and touched: memory that never was written is one shared page.
    ///
    /// # Panics
    /// The system has no room for them.
    pub fn new(bytes: usize) -> Self {
        let lines = bytes.div_ceil(size_of::<Line>()).max(1).next_multiple_of(LINES_PER_TASK);
        let map = MmapMut::map_anon(lines * size_of::<Line>()).expect("memory to measure with");
        // Advice.
        let _ = map.advise(Advice::HugePage);
        let mut memory = Self { map };
        memory.lines_mut().fill([1; 8]);
        memory
    }

    /// Bytes.
    pub fn bytes(&self) -> usize {
        self.map.len()
    }

    fn lines(&self) -> &[Line] {
        bytemuck::cast_slice(&self.map)
    }

    fn lines_mut(&mut self) -> &mut [Line] {
        bytemuck::cast_slice_mut(&mut self.map)
    }

    /// Reads all of it once, on all of the kernels' threads: bytes a second.
    pub fn read(&self) -> f64 {
        let begun = Instant::now();
        let sum = self.sum(On::best());
        assert_eq!(sum, 8 * self.lines().len() as u64, "every word is read once");
        self.bytes() as f64 / begun.elapsed().as_secs_f64()
    }

    fn sum(&self, on: On) -> u64 {
        let sum = AtomicU64::new(0);
        let (tasks, _) = self.lines().as_chunks::<LINES_PER_TASK>();
        on.pool.run(tasks.len(), &|task| {
            sum.fetch_add(sum_of(on.level, &tasks[task]), Relaxed);
        });
        sum.into_inner()
    }
}

fn sum_of(level: Level, lines: &[Line]) -> u64 {
    let mut sum = 0;
    add_up(level, lines, &mut sum);
    sum
}

leveled! { fn add_up(lines: &[Line], sum: &mut u64) = add_up_lanes }

#[inline(always)]
fn add_up_lanes<const L: usize, const FMA: bool>(lines: &[Line], sum: &mut u64) {
    let part = lines.len() / STREAMS;
    let mut sums = [[0_u64; 8]; STREAMS];
    for at in 0..part {
        for (stream, sums) in sums.iter_mut().enumerate() {
            let line = &lines[stream * part + at];
            ask_for(line, AHEAD);
            for (sum, word) in sums.iter_mut().zip(line) {
                *sum = sum.wrapping_add(*word);
            }
        }
    }
    *sum = sums.iter().flatten().fold(0, |all, word| all.wrapping_add(*word));
}

/// Asks the cache for the line that lies `ahead` lines behind `line`.
#[inline(always)]
fn ask_for(line: &Line, ahead: usize) {
    let there = std::ptr::from_ref(line).wrapping_add(ahead);
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch touches nothing, wherever it points.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(there.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = there;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::pool::Pool;

    #[test]
    fn every_word_is_added_once_at_every_level_on_any_number_of_threads() {
        let mut memory = Memory::new(3 * LINES_PER_TASK * size_of::<Line>() - 1);
        assert_eq!(memory.bytes(), 3 << 20);
        for (word, n) in memory.lines_mut().as_flattened_mut().iter_mut().zip(0..) {
            *word = n;
        }
        let words = memory.bytes() as u64 / 8;
        for level in Level::available() {
            for threads in [1, 2, 3] {
                let pool = Box::leak(Box::new(Pool::new(threads)));
                assert_eq!(memory.sum(On { level, pool }), words * (words - 1) / 2, "{level:?}, {threads} threads");
            }
        }
    }

    #[test]
    fn a_rate_is_a_number() {
        assert!(Memory::new(0).read() > 0.0);
    }
}
