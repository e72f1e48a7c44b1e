//! A file's pages → the page cache, and mapped: far ahead of whoever needs them, in file order.
//!
//! One that waits for a page of a mapping gets a huge page where the file system has such, which advice to read ahead does not give. Enough of them at once keep a
//! disk busy, and few more: what waits behind others in the disk comes no sooner, and what is wanted first comes with it. So there are more as long as each still gets its
//! pages about as fast as the fastest did. What cannot be read is said by who needs it: here it ends a thread's work.

use crate::{ARENA_ALIGN, mapping::Mapping};
use std::{
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Most threads that read in: as many requests wait in the disk.
const READERS_MAX: usize = 16;
/// What each of them reads at once, on a multiple of it in the file: a huge page.
const READ_BYTES: u64 = ARENA_ALIGN;
/// What is in memory is mapped sooner.
const DISK_LATENCY: Duration = Duration::from_micros(100);

/// Something mapped that is to be read in.
pub(crate) trait ReadIn: Send + Sync + 'static {
    /// Does something with its mapping; not where nothing of it is wanted any more.
    fn on_disk<T>(&self, what: impl FnOnce(&Mapping) -> T) -> Option<T>;
}

/// Starts to read in `range` of the file, from the huge page on that holds its beginning. Without these threads all is read in by those that need it.
pub(crate) fn start(from: impl ReadIn, range: Range<u64>) {
    let next = AtomicU64::new(range.start - range.start % READ_BYTES);
    Arc::new(Reading { from, next, end: range.end, pace: Mutex::default() }).more(0);
}

struct Reading<T> {
    from: T,
    /// The next byte that nobody reads in.
    next: AtomicU64,
    end: u64,
    pace: Mutex<Pace>,
}

impl<T: ReadIn> Reading<T> {
    /// One thread more, where there is something left for it.
    fn more(self: &Arc<Self>, number: usize) {
        if self.next.load(Ordering::Relaxed) < self.end {
            let reading = self.clone();
            // Where it cannot be started there are fewer.
            let _ = thread::Builder::new().name(format!("read-{number}")).spawn(move || reading.run());
        }
    }

    fn run(self: &Arc<Self>) {
        loop {
            let (from, begun) = (self.next.fetch_add(READ_BYTES, Ordering::Relaxed), Instant::now());
            let unit = from..self.end.min(from + READ_BYTES);
            if from >= self.end || !matches!(self.from.on_disk(|map| map.populate(&unit)), Some(Ok(()))) {
                return;
            }
            let more = self.pace.lock().unwrap_or_else(PoisonError::into_inner).took(begun.elapsed());
            more.into_iter().for_each(|number| self.more(number));
        }
    }
}

/// How many read, by how fast the disk answers.
struct Pace {
    readers: usize,
    /// About the shortest that it has taken but for the first, of which opening the file has read a part. As others may have been there in part, too, it is
    /// forgotten by and by where all are slower: the slower, the more readers there are.
    fastest: Duration,
    /// Units that were asked for before the last reader began: they say nothing of what it changes.
    under_way: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self { readers: 1, fastest: Duration::MAX, under_way: 0 }
    }
}

impl Pace {
    /// A unit took so long. The number of the reader that is to begin, if the disk might do more at once.
    fn took(&mut self, time: Duration) -> Option<usize> {
        if time < DISK_LATENCY || self.readers == READERS_MAX {
            return None;
        }
        if self.under_way > 0 {
            self.under_way -= 1;
            return None;
        }
        if time / 3 > self.fastest / 2 {
            self.fastest += self.fastest / (8 * self.readers * self.readers) as u32;
            return None;
        }
        if self.readers > 1 {
            self.fastest = self.fastest.min(time);
        }
        self.under_way = self.readers - 1;
        self.readers += 1;
        Some(self.readers - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When a disk that was asked at a time answers, by when it answered before.
    type Disk = fn(asked: Duration, before: Duration) -> Duration;

    /// One thing after the other, a half millisecond each, and a tenth until it has begun.
    const BUSY: Disk = |asked, before| (asked + Duration::from_micros(100)).max(before) + Duration::from_micros(500);
    /// Whatever is asked for, two milliseconds later.
    const FAR: Disk = |asked, _| asked + Duration::from_millis(2);

    /// Readers in the end, and when all was read. Of unit `lucky` most was there.
    fn read(units: usize, disk: Disk, lucky: usize) -> (usize, Duration) {
        let mut pace = Pace::default();
        let mut last = disk(Duration::ZERO, Duration::ZERO);
        // When each reader's unit will be there, when it was asked for, and its number.
        let mut under_way = vec![(last, Duration::ZERO, 0)];
        let mut asked_for = 1;
        while let Some(at) = (0..under_way.len()).min_by_key(|at| under_way[*at].0) {
            let (there, asked, number) = under_way.swap_remove(at);
            let time = if number == lucky { DISK_LATENCY * 2 } else { there - asked };
            let readers = 1 + usize::from(pace.took(time).is_some());
            for _ in 0..readers.min(units - asked_for) {
                last = disk(there, last);
                under_way.push((last, there, asked_for));
                asked_for += 1;
            }
            if under_way.is_empty() {
                return (pace.readers, there);
            }
        }
        unreachable!("the last unit ends it")
    }

    #[test]
    fn a_disk_that_is_busy_is_asked_for_little_more() {
        let (readers, time) = read(50, BUSY, usize::MAX);
        assert!(readers <= 5, "{readers}");
        assert!(time < Duration::from_millis(26), "{time:?}: one reader would take 30 ms");
        let (readers, _) = read(500, BUSY, usize::MAX);
        assert!(readers < READERS_MAX, "{readers}");
    }

    #[test]
    fn a_disk_that_is_far_is_asked_for_much_at_once() {
        for (lucky, milliseconds) in [(usize::MAX, 100), (0, 100), (1, 200)] {
            let (readers, time) = read(500, FAR, lucky);
            assert_eq!(readers, READERS_MAX, "{lucky}");
            assert!(time < Duration::from_millis(milliseconds), "{lucky}: {time:?}, and not a second");
        }
    }

    #[test]
    fn what_is_in_memory_needs_one() {
        let mut pace = Pace::default();
        assert!((0..1000).all(|_| pace.took(Duration::from_micros(20)).is_none()));
    }
}
