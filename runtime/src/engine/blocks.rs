//! KV blocks: who has which. **Invariant:** holds no tensors; each block is free or in exactly one lease; a dropped
//! lease gives its blocks back.
//!
//! The block given back last is handed out first, so that a quiet runtime touches little memory.

use std::{cell::RefCell, rc::Rc};

/// All blocks of the pool, on the engine's thread.
pub struct Blocks(Rc<RefCell<Pool>>);

struct Pool {
    /// Free blocks; the last is handed out next.
    free: Vec<u32>,
    /// Whether each block is free: the second opinion for the invariant.
    is_free: Vec<bool>,
}

/// Blocks that one sequence has until it is dropped.
pub struct Lease {
    blocks: Vec<u32>,
    pool: Rc<RefCell<Pool>>,
}

impl Blocks {
    /// `total` free blocks, numbered from 0.
    pub fn new(total: u32) -> Self {
        Self(Rc::new(RefCell::new(Pool { free: (0..total).rev().collect(), is_free: vec![true; total as usize] })))
    }

    /// `count` blocks, or `None` where so many are not free.
    pub fn lease(&self, count: usize) -> Option<Lease> {
        let mut pool = self.0.borrow_mut();
        let keep = pool.free.len().checked_sub(count)?;
        let mut blocks = pool.free.split_off(keep);
        blocks.reverse();
        blocks.iter().for_each(|&b| pool.is_free[b as usize] = false);
        pool.check_invariants();
        drop(pool);
        Some(Lease { blocks, pool: self.0.clone() })
    }

    /// Blocks in all.
    pub fn total(&self) -> usize {
        self.0.borrow().is_free.len()
    }

    /// Blocks in leases.
    pub fn used(&self) -> usize {
        self.total() - self.0.borrow().free.len()
    }
}

impl Lease {
    /// The block table: block `i` holds positions `i * BLOCK_TOKENS..`.
    pub fn table(&self) -> &[u32] {
        &self.blocks
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut pool = self.pool.borrow_mut();
        while let Some(block) = self.blocks.pop() {
            pool.is_free[block as usize] = true;
            pool.free.push(block);
        }
        pool.check_invariants();
    }
}

impl Pool {
    /// No block is free twice, and both records agree.
    fn check_invariants(&self) {
        if cfg!(debug_assertions) {
            let mut seen = vec![false; self.is_free.len()];
            for &block in &self.free {
                assert!(!std::mem::replace(&mut seen[block as usize], true), "block {block} is free twice");
            }
            assert_eq!(seen, self.is_free, "the free list and the map of free blocks disagree");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_dropped_lease_gives_its_blocks_back_and_the_warmest_go_first() {
        let blocks = Blocks::new(4);
        let a = blocks.lease(2).unwrap();
        assert_eq!((a.table(), blocks.used()), (&[0, 1][..], 2));
        assert!(blocks.lease(3).is_none());
        assert_eq!(blocks.used(), 2, "a refused lease takes nothing");
        drop(a);
        assert_eq!((blocks.used(), blocks.lease(3).unwrap().table()), (0, &[0, 1, 2][..]));
    }

    proptest! {
        #[test]
        fn leases_never_overlap(steps in proptest::collection::vec((0usize..12, any::<bool>()), 1..60)) {
            let blocks = Blocks::new(32);
            let mut held: Vec<Lease> = Vec::new();
            for (n, take) in steps {
                if take {
                    held.extend(blocks.lease(n));
                } else if !held.is_empty() {
                    held.swap_remove(n % held.len());
                }
                let mut all: Vec<u32> = held.iter().flat_map(|l| l.table().iter().copied()).collect();
                prop_assert_eq!(all.len(), blocks.used());
                all.sort_unstable();
                all.dedup();
                prop_assert_eq!(all.len(), blocks.used());
            }
        }
    }
}
