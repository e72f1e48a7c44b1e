//! Names of KV blocks by what they hold: a block's name follows from all tokens up to its end and from the request's scope.
//!
//! SHA-256, so that nobody can make up a prompt that finds another scope's keys and values.

use kernels::BLOCK_TOKENS;
use sha2::{Digest, Sha256};

/// Who may share keys and values: requests of one scope only. What it stands for is the activator's business.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope(pub u128);

/// A full block's content.
pub type Name = [u8; 32];

/// The names of one sequence's full blocks, each made from the one before.
#[derive(Clone, Debug)]
pub struct Names {
    scope: Scope,
    origin: Name,
    list: Vec<Name>,
}

impl Names {
    /// Of a sequence in this scope; `regime`: what else its keys depend on beside the tokens.
    pub fn new(scope: Scope, regime: u32) -> Self {
        let mut hash = Sha256::new();
        hash.update(scope.0.to_le_bytes());
        hash.update(regime.to_le_bytes());
        Self { scope, origin: hash.finalize().into(), list: Vec::new() }
    }

    /// Of the same sequence in another regime.
    pub fn anew(&self, regime: u32) -> Self {
        Self::new(self.scope, regime)
    }

    /// Whose they are.
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// The names that have been made.
    pub fn made(&self) -> &[Name] {
        &self.list
    }

    /// The names of all blocks that `tokens` fill; `tokens` only ever grows.
    pub fn of(&mut self, tokens: &[u32]) -> &[Name] {
        let full = tokens.len() / BLOCK_TOKENS;
        while self.list.len() < full {
            let at = self.list.len() * BLOCK_TOKENS;
            let mut hash = Sha256::new();
            hash.update(self.list.last().unwrap_or(&self.origin));
            tokens[at..at + BLOCK_TOKENS].iter().for_each(|token| hash.update(token.to_le_bytes()));
            self.list.push(hash.finalize().into());
        }
        &self.list[..full]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_depends_on_everything_before_and_on_the_scope() {
        let tokens: Vec<u32> = (0..3 * BLOCK_TOKENS as u32 + 5).collect();
        let mut names = Names::new(Scope(1), 0);
        assert_eq!(names.of(&tokens[..BLOCK_TOKENS - 1]).len(), 0);
        let grown = [names.of(&tokens[..2 * BLOCK_TOKENS]).to_vec(), names.of(&tokens).to_vec()];
        assert_eq!((grown[0].len(), grown[1].len()), (2, 3));
        assert_eq!(grown[0], grown[1][..2]);
        assert_eq!(Names::new(Scope(1), 0).of(&tokens), grown[1]);
        let mut other = tokens.clone();
        other[0] += 1;
        for different in [
            Names::new(Scope(2), 0).of(&tokens),
            Names::new(Scope(1), 1).of(&tokens),
            Names::new(Scope(1), 0).of(&other),
        ] {
            assert!(different.iter().zip(&grown[1]).all(|(a, b)| a != b));
        }
    }
}
