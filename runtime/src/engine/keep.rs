//! Where full blocks are kept beyond the pool, and beyond the process.

use super::names::{Name, Scope};

/// Keeps blocks by name. What it gives back is what it was given, or nothing.
pub trait Keep: Send {
    /// What is used from now on is newer than all before.
    fn begin(&mut self);

    /// These blocks of one sequence, from its beginning on, are used from elsewhere.
    fn used(&mut self, scope: Scope, names: &[Name]);

    /// It may have this block.
    fn knows(&mut self, scope: Scope, name: &Name) -> bool;

    /// The block's bytes. `depth`: its number in its sequence.
    fn load(&mut self, scope: Scope, name: &Name, depth: usize) -> Option<&[u8]>;

    /// Keeps the block that `fill` copies, unless it has it.
    fn save(&mut self, scope: Scope, name: &Name, depth: usize, fill: &mut dyn FnMut(&mut [u8]));
}
