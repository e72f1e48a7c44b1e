//! An example guest: tokens of the manifest's list are never said. One that is alone with its ban costs a few microseconds: the mask is made once.

use guest_sdk::{Constraint, Rejection, TokenHook, TokenId, host};

#[derive(Default)]
struct Banned {
    mask: Vec<u32>,
}

impl TokenHook for Banned {
    fn start(&mut self, _prompt: &[TokenId], vocab_size: u32) -> Result<Constraint, Rejection> {
        let banned = host::config("tokens").unwrap_or_default();
        self.mask = vec![u32::MAX; vocab_size.div_ceil(32) as usize];
        for token in banned.split_whitespace().filter_map(|token| token.parse::<u32>().ok()) {
            if token < vocab_size {
                self.mask[token as usize / 32] &= !(1 << (token % 32));
            }
        }
        Ok(Constraint::Mask(self.mask.clone()))
    }

    fn next(&mut self, _accepted: &[TokenId]) -> Result<Constraint, Rejection> {
        Ok(Constraint::Mask(self.mask.clone()))
    }
}

guest_sdk::export!(Banned: token);
