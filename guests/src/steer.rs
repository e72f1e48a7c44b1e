//! What guests say of the next token, checked and put together.
//!
//! **Invariant:** every token is below the vocabulary's size, every bias a number, and a mask has a bit for each token and allows one.

use crate::{failure::Failure, types::Constraint};

/// A bias at most, either way: what is added up stays a number.
const BIAS_MAX: f32 = 1e4;

/// Tokens that may be forced at once.
const FORCED_MAX: usize = 4096;

/// What is said of the next token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Steer {
    /// Only these: bit `id % 32` of word `id / 32`. `None`: any.
    pub mask: Option<Vec<u32>>,
    /// Added to these tokens' logits.
    pub biases: Vec<(u32, f32)>,
    /// Exactly these, one after the other, before anybody is asked again.
    pub force: Vec<u32>,
    /// Nothing follows.
    pub stop: bool,
}

impl Steer {
    /// Of one guest.
    pub(crate) fn of(said: Constraint, vocab: u32) -> Result<Self, Failure> {
        let below = |token: u32| match token < vocab {
            true => Ok(token),
            false => Err(Failure::Invalid(format!("named token {token} of a vocabulary of {vocab}"))),
        };
        Ok(match said {
            Constraint::Free => Self::default(),
            Constraint::Stop => Self { stop: true, ..Self::default() },
            Constraint::Mask(mask) => {
                let words = vocab.div_ceil(32) as usize;
                if mask.len() != words {
                    let has = mask.len();
                    return Err(Failure::Invalid(format!("gave a mask of {has} words where {words} were due")));
                }
                if !allows_any(&mask, vocab) {
                    return Err(Failure::Invalid("gave a mask that allows no token".into()));
                }
                Self { mask: Some(mask), ..Self::default() }
            }
            Constraint::Bias(biases) if biases.len() > vocab as usize => {
                let many = biases.len();
                return Err(Failure::Invalid(format!("gave {many} biases for a vocabulary of {vocab}")));
            }
            Constraint::Bias(biases) => {
                let check = |bias: crate::types::Bias| match bias.add.is_finite() {
                    true => Ok((below(bias.token)?, bias.add.clamp(-BIAS_MAX, BIAS_MAX))),
                    false => Err(Failure::Invalid(format!("gave token {} a bias that is no number", bias.token))),
                };
                Self { biases: biases.into_iter().map(check).collect::<Result<_, _>>()?, ..Self::default() }
            }
            Constraint::Force(force) if force.len() > FORCED_MAX => {
                let forced = force.len();
                return Err(Failure::Invalid(format!("forced {forced} tokens, more than {FORCED_MAX}")));
            }
            Constraint::Force(force) => {
                Self { force: force.into_iter().map(below).collect::<Result<_, _>>()?, ..Self::default() }
            }
        })
    }

    /// What two say: masks allow what both do, biases add up, who forces first does, and who stops has stopped.
    pub(crate) fn and(self, other: Self) -> Self {
        let mask = match (self.mask, other.mask) {
            (Some(one), Some(two)) => Some(one.into_iter().zip(two).map(|(one, two)| one & two).collect()),
            (one, two) => one.or(two),
        };
        let force = if self.force.is_empty() { other.force } else { self.force };
        Self { mask, biases: [self.biases, other.biases].concat(), force, stop: self.stop || other.stop }
    }
}

/// Whether a token below the vocabulary's size is allowed.
pub(crate) fn allows_any(mask: &[u32], vocab: u32) -> bool {
    let (whole, rest) = ((vocab / 32) as usize, vocab % 32);
    let last = mask.get(whole).is_some_and(|word| rest > 0 && word & ((1 << rest) - 1) != 0);
    last || mask[..whole.min(mask.len())].iter().any(|word| *word != 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::types::Bias;

    fn wrong(said: Constraint) -> String {
        Steer::of(said, 40).unwrap_err().to_string()
    }

    #[test]
    fn what_no_constraint_may_say_is_a_failure() {
        assert!(wrong(Constraint::Mask(vec![1])).contains("1 words where 2 were due"));
        assert!(wrong(Constraint::Mask(vec![0, 0])).contains("allows no token"));
        assert!(
            wrong(Constraint::Mask(vec![0, 1 << 8])).contains("allows no token"),
            "bits beyond the vocabulary are none"
        );
        assert!(wrong(Constraint::Bias(vec![Bias { token: 40, add: 1.0 }])).contains("token 40 of a vocabulary of 40"));
        assert!(wrong(Constraint::Bias(vec![Bias { token: 1, add: f32::NAN }])).contains("no number"));
        assert!(wrong(Constraint::Bias(vec![Bias { token: 1, add: 1.0 }; 41])).contains("41 biases"));
        assert!(wrong(Constraint::Force(vec![u32::MAX])).contains("vocabulary"));
        assert!(wrong(Constraint::Force(vec![1; 5000])).contains("5000 tokens"));
        assert_eq!(Steer::of(Constraint::Mask(vec![0, 1 << 7]), 40).unwrap().mask, Some(vec![0, 1 << 7]));
    }

    #[test]
    fn what_several_say_is_said_by_all() {
        let mask = |words: [u32; 2]| Steer::of(Constraint::Mask(words.into()), 40).unwrap();
        let force = |token| Steer::of(Constraint::Force(vec![token]), 40).unwrap();
        assert_eq!(mask([6, 0]).and(mask([12, 0])).mask, Some(vec![4, 0]));
        assert_eq!(mask([6, 0]).and(Steer::default()).mask, Some(vec![6, 0]));
        assert_eq!(force(3).and(force(4)).force, [3]);
        let stop = Steer::of(Constraint::Stop, 40).unwrap();
        assert!(stop.clone().and(force(1)).stop && force(1).and(stop).stop);
    }
}
