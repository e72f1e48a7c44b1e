//! One output written by several threads, each its own part.

use std::marker::PhantomData;
use std::ops::Range;

/// A `&mut [T]` that threads may write at the same time, as long as no element is written twice.
pub(crate) struct Shared<'a, T> {
    start: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for an exclusive borrow of `T`s that may be sent; what is done through it is
// bound by the promise of `part`.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: as above: sharing it only serves to hand out disjoint exclusive parts.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// # Safety
    /// No two parts that are alive at the same time overlap.
    #[inline]
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the slice this was made of; the caller keeps parts apart.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}
