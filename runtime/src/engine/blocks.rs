//! KV blocks: who has which, and which hold something worth keeping. **Invariant:** holds no tensors; each block is free,
//! idle (named by what it holds, in no table), or in at least one table; a dropped table gives its blocks back.
//!
//! A full block may be named; blocks of the same name hold the same bits, so tables share them, and only full blocks are ever
//! shared: nobody writes them again. Idle blocks are forgotten in the order of their last use, the ends of sequences first.

use super::names::{Name, Scope};
use kernels::BLOCK_TOKENS;
use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, VecDeque},
    rc::Rc,
};

/// All blocks of the pool, on the engine's thread.
pub struct Blocks(Rc<RefCell<Pool>>);

struct Pool {
    /// Free blocks; the last is handed out next, so that a quiet runtime touches little memory.
    free: Vec<u32>,
    /// Tables that have each block.
    holders: Vec<u32>,
    /// What each block holds, where that is known.
    name: Vec<Option<Name>>,
    by_name: HashMap<Name, u32>,
    /// Last use → block, of those that no table has; the first is forgotten next.
    idle: BTreeMap<u64, u32>,
    /// Last use of each idle block.
    used_at: Vec<u64>,
    clock: u64,
    /// Where they are to be kept elsewhere, too: blocks that have been filled since, the oldest first. Some may hold something else now.
    filled: Option<VecDeque<Filled>>,
}

/// A block that was filled and named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    /// Which.
    pub block: u32,
    /// What it holds.
    pub name: Name,
    /// Whose that is.
    pub scope: Scope,
    /// Its number in its sequence.
    pub depth: usize,
}

/// The blocks of one sequence, until it is dropped.
pub struct Table {
    blocks: Vec<u32>,
    /// So many of the first have had their names.
    named: usize,
    pool: Rc<RefCell<Pool>>,
}

impl Blocks {
    /// `total` free blocks, numbered from 0.
    pub fn new(total: u32) -> Self {
        let n = total as usize;
        Self(Rc::new(RefCell::new(Pool {
            free: (0..total).rev().collect(),
            holders: vec![0; n],
            name: vec![None; n],
            by_name: HashMap::new(),
            idle: BTreeMap::new(),
            used_at: vec![0; n],
            clock: 0,
            filled: None,
        })))
    }

    /// From now on remembers what is filled, for [`Blocks::next_filled`].
    pub fn remember_filled(&self) {
        self.0.borrow_mut().filled.get_or_insert_default();
    }

    /// The next block that was filled and still holds what it held then.
    pub fn next_filled(&self) -> Option<Filled> {
        let mut pool = self.0.borrow_mut();
        loop {
            let next = pool.filled.as_mut()?.pop_front()?;
            if pool.name[next.block as usize] == Some(next.name) {
                return Some(next);
            }
        }
    }

    /// A table without blocks.
    pub fn table(&self) -> Table {
        Table { blocks: Vec::new(), named: 0, pool: self.0.clone() }
    }

    /// So many of the first of `names` some block holds.
    pub fn known(&self, names: &[Name]) -> usize {
        let pool = self.0.borrow();
        names.iter().take_while(|name| pool.by_name.contains_key(*name)).count()
    }

    /// Blocks in all.
    pub fn total(&self) -> usize {
        self.0.borrow().holders.len()
    }

    /// Blocks that a table can still get.
    pub fn available(&self) -> usize {
        self.0.borrow().available()
    }

    /// Blocks in tables.
    pub fn used(&self) -> usize {
        self.total() - self.available()
    }

    /// Blocks that hold something known and are in no table.
    pub fn idle(&self) -> usize {
        self.0.borrow().idle.len()
    }
}

impl Table {
    /// Block `i` holds positions `i * BLOCK_TOKENS..`.
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// Takes the blocks that hold the first of `names`, as far as there are such; the positions they cover. The table is
    /// empty before.
    pub fn reuse(&mut self, names: &[Name]) -> usize {
        debug_assert!(self.blocks.is_empty(), "blocks are reused from the sequence's start on");
        let mut pool = self.pool.borrow_mut();
        for name in names {
            let Some(&block) = pool.by_name.get(name) else { break };
            pool.hold(block);
            self.blocks.push(block);
        }
        pool.check_invariants();
        self.named = self.blocks.len();
        self.named * BLOCK_TOKENS
    }

    /// Takes as many blocks as `positions` positions need; false, and nothing taken, where so many are not to be had.
    pub fn grow(&mut self, positions: usize) -> bool {
        let missing = positions.div_ceil(BLOCK_TOKENS).saturating_sub(self.blocks.len());
        if missing == 0 {
            return true;
        }
        let mut pool = self.pool.borrow_mut();
        if missing > pool.available() {
            return false;
        }
        for _ in 0..missing {
            let block = pool.take();
            self.blocks.push(block);
        }
        pool.check_invariants();
        true
    }

    /// Says what the first blocks hold, now that all their positions are computed.
    pub fn name(&mut self, names: &[Name], scope: Scope) {
        self.name_as(names, Some(scope));
    }

    /// The same of blocks that were not computed but brought from where they are kept.
    pub fn name_kept(&mut self, names: &[Name]) {
        self.name_as(names, None);
    }

    fn name_as(&mut self, names: &[Name], filled_in: Option<Scope>) {
        if names.len() <= self.named {
            return;
        }
        let mut pool = self.pool.borrow_mut();
        for (depth, (&block, name)) in self.blocks.iter().zip(names).enumerate().skip(self.named) {
            // Another block may hold the same already; this one then stays nameless.
            if !pool.by_name.contains_key(name) {
                pool.name[block as usize] = Some(*name);
                pool.by_name.insert(*name, block);
                if let Some(scope) = filled_in {
                    pool.remember(Filled { block, name: *name, scope, depth });
                }
            }
        }
        self.named = names.len();
        pool.check_invariants();
    }

    /// Gives all blocks back.
    pub fn clear(&mut self) {
        let mut pool = self.pool.borrow_mut();
        while let Some(block) = self.blocks.pop() {
            pool.release(block);
        }
        self.named = 0;
        pool.check_invariants();
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Pool {
    fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// As many as there are blocks: of more the oldest hold something else.
    fn remember(&mut self, block: Filled) {
        let most = self.holders.len();
        if let Some(filled) = &mut self.filled {
            if filled.len() == most {
                filled.pop_front();
            }
            filled.push_back(block);
        }
    }

    fn take(&mut self) -> u32 {
        let block = self.free.pop().unwrap_or_else(|| {
            let (_, block) = self.idle.pop_first().expect("there were enough available");
            let name = self.name[block as usize].take().expect("an idle block is named");
            self.by_name.remove(&name);
            block
        });
        self.holders[block as usize] = 1;
        block
    }

    fn hold(&mut self, block: u32) {
        let holders = &mut self.holders[block as usize];
        *holders += 1;
        if *holders == 1 {
            self.idle.remove(&self.used_at[block as usize]);
        }
    }

    fn release(&mut self, block: u32) {
        let b = block as usize;
        self.holders[b] -= 1;
        if self.holders[b] > 0 {
            return;
        }
        if self.name[b].is_none() {
            self.free.push(block);
            return;
        }
        self.clock += 1;
        self.used_at[b] = self.clock;
        self.idle.insert(self.clock, block);
    }

    /// Every block is in exactly one of three states, and all records agree.
    fn check_invariants(&self) {
        if !cfg!(debug_assertions) {
            return;
        }
        let mut places = vec![0u8; self.holders.len()];
        self.free.iter().chain(self.idle.values()).for_each(|&block| places[block as usize] += 1);
        for (block, (&holders, &place)) in self.holders.iter().zip(&places).enumerate() {
            assert_eq!(place, u8::from(holders == 0), "block {block} is free or idle once, or held");
        }
        assert!(self.free.iter().all(|&block| self.name[block as usize].is_none()), "a free block holds nothing known");
        let named = self.name.iter().flatten().count();
        assert_eq!(named, self.by_name.len(), "names and blocks are one to one");
        assert!(self.by_name.iter().all(|(name, &block)| self.name[block as usize].as_ref() == Some(name)));
        assert!(
            self.idle
                .iter()
                .all(|(at, &block)| self.used_at[block as usize] == *at && self.name[block as usize].is_some())
        );
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::engine::names::{Names, Scope};
    use proptest::prelude::*;

    fn table(blocks: &Blocks, count: usize) -> Option<Table> {
        let mut table = blocks.table();
        table.grow(count * BLOCK_TOKENS).then_some(table)
    }

    fn names(sequence: u32, blocks: usize) -> Vec<Name> {
        let tokens = vec![sequence; blocks * BLOCK_TOKENS];
        Names::new(Scope(0), 0).of(&tokens).to_vec()
    }

    #[test]
    fn a_dropped_table_gives_its_blocks_back_and_the_warmest_go_first() {
        let blocks = Blocks::new(4);
        let a = table(&blocks, 2).unwrap();
        assert_eq!((a.blocks(), blocks.used()), (&[0, 1][..], 2));
        assert!(table(&blocks, 3).is_none());
        assert_eq!(blocks.used(), 2, "a refused table takes nothing");
        drop(a);
        assert_eq!((blocks.used(), table(&blocks, 3).unwrap().blocks()), (0, &[0, 1, 2][..]));
    }

    #[test]
    fn named_blocks_are_found_again_shared_and_forgotten_by_last_use_from_the_end() {
        let blocks = Blocks::new(4);
        let (a, b) = (names(1, 2), names(2, 1));
        let fill = |names: &[Name]| {
            let mut made = table(&blocks, names.len()).unwrap();
            made.name(names, Scope(0));
        };
        fill(&a);
        fill(&b);
        assert_eq!((blocks.used(), blocks.idle(), blocks.available()), (0, 3, 4));
        let (mut first, mut second) = (blocks.table(), blocks.table());
        assert_eq!((first.reuse(&a), second.reuse(&a)), (2 * BLOCK_TOKENS, 2 * BLOCK_TOKENS));
        assert_eq!((first.blocks(), blocks.used()), (second.blocks(), 2), "two tables, the same blocks");
        assert!(!first.grow(5 * BLOCK_TOKENS));
        drop(first);
        assert_eq!(blocks.used(), 2, "the other still has them");
        drop(second);
        // Now `b` is the longest unused, then the end of `a`.
        let taken = table(&blocks, 3).unwrap();
        assert_eq!(blocks.table().reuse(&b), 0);
        assert_eq!(blocks.table().reuse(&a), BLOCK_TOKENS);
        drop(taken);
    }

    proptest! {
        /// Whatever is done, a block is written by one table only, and what a name finds is what was named so.
        #[test]
        fn tables_share_named_blocks_alone(steps in proptest::collection::vec((0u32..5, 0usize..6, 0usize..9), 1..80)) {
            let blocks = Blocks::new(16);
            let mut held: Vec<(Table, usize)> = Vec::new();
            let mut content: Vec<Option<Name>> = vec![None; 16];
            for (sequence, length, action) in steps {
                if action > 5 && !held.is_empty() {
                    held.swap_remove(length % held.len());
                    continue;
                }
                let names = names(sequence, length);
                let mut made = blocks.table();
                let found = made.reuse(&names) / BLOCK_TOKENS;
                for i in 0..found {
                    prop_assert_eq!(content[made.blocks()[i] as usize], Some(names[i]));
                }
                if !made.grow(length * BLOCK_TOKENS) {
                    prop_assert_eq!(made.blocks().len(), found);
                    continue;
                }
                for (&block, name) in made.blocks().iter().zip(&names).skip(found) {
                    prop_assert!(held.iter().all(|(table, _)| !table.blocks().contains(&block)), "written while held");
                    content[block as usize] = Some(*name);
                }
                made.name(&names, Scope(0));
                held.push((made, length));
                let mut all: Vec<u32> = held.iter().flat_map(|(table, _)| table.blocks().iter().copied()).collect();
                all.sort_unstable();
                all.dedup();
                prop_assert_eq!(all.len(), blocks.used());
            }
        }
    }
}
