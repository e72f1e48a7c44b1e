//! Which pages fresh memory comes in: huge ones, as long as the system has them at hand.
//!
//! A huge page is given and cleared in a fraction of the time that its 512 small ones take, but where a virtual machine's host has taken it back: hosts take back large
//! free areas alone, so small pages are mostly still there. Nobody says which it is, so the first are tried.

use crate::mapping::Mapping;
use rustix::time::{ClockId, clock_gettime};
use std::{
    hint::black_box,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

/// No processor takes so long to clear a huge page, of which the host has all.
const SLOW: Duration = Duration::from_micros(500);
/// So many that were slow, and the rest is asked for in small ones.
const SLOW_MAX: usize = 2;

/// How the huge pages of some memory were to be had.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    slow: AtomicUsize,
}

impl Pages {
    /// Has the page in which `place`, of `memory`, begins given, if it is not there; its first byte is zero then. Where that was slow, later ones will be small.
    pub(crate) fn touch(&self, memory: &Mapping, place: &mut [u8]) {
        if self.are_small() {
            return;
        }
        let begun = processor_time();
        place.iter_mut().take(1).for_each(|byte| *black_box(byte) = 0);
        self.took(processor_time().saturating_sub(begun)).then(|| memory.in_small_pages());
    }

    fn are_small(&self) -> bool {
        self.slow.load(Ordering::Relaxed) >= SLOW_MAX
    }

    /// A page took so long; whether it is the last to be huge.
    fn took(&self, time: Duration) -> bool {
        time > SLOW && self.slow.fetch_add(1, Ordering::Relaxed) + 1 == SLOW_MAX
    }
}

/// Of this thread: while it waits for a processor nothing is slow.
fn processor_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_second_slow_page_is_the_last_huge_one() {
        let pages = Pages::default();
        let times = [100, 499, 501, 90, 4000, 5000];
        assert_eq!(
            times.map(|micros| pages.took(Duration::from_micros(micros))),
            [false, false, false, false, true, false]
        );
        assert!(pages.are_small());
    }

    #[test]
    fn what_is_touched_is_zero_and_the_rest_as_it_was() {
        let memory = Mapping::of_memory(memmap2::MmapMut::map_anon(8192).unwrap());
        let mut place = [7; 3];
        Pages::default().touch(&memory, &mut place);
        assert_eq!(place, [0, 7, 7]);
        Pages::default().touch(&memory, &mut []);
        let used = Pages { slow: AtomicUsize::new(SLOW_MAX) };
        used.touch(&memory, &mut place[1..]);
        assert_eq!(place, [0, 7, 7], "nothing is tried any more");
    }
}
