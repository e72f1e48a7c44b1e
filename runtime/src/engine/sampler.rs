//! Logits → the next token. **Invariant:** a pure function of logits, parameters, the tokens so far and the position;
//! the order of filters is: bias and penalties, temperature, top-k, top-p, min-p. Ties go to the lower token id.

use super::{guide::Next, random::uniform};
use std::collections::HashMap;

/// How one sequence chooses its tokens, with all defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Params {
    /// 0 is greedy.
    pub temperature: f32,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub top_k: u32,
    /// 0 is off.
    pub min_p: f32,
    /// Subtracted once from tokens that were generated before.
    pub presence_penalty: f32,
    /// Subtracted for each time a token was generated before.
    pub frequency_penalty: f32,
    /// 1 is off.
    pub repetition_penalty: f32,
    /// Added to these tokens' logits.
    pub logit_bias: Vec<(u32, f32)>,
    /// The generator's key.
    pub seed: u64,
    /// The generator's second key: which of a request's choices this is.
    pub choice: u32,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            logit_bias: Vec::new(),
            seed: 0,
            choice: 0,
        }
    }
}

/// No logit was a number above minus infinity: the model's output is broken.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the model's logits hold no finite number")]
pub struct NotFinite;

/// One sequence's sampler: its parameters and what has been seen.
pub struct Sampler {
    params: Params,
    /// Token → times generated; tokens of the prompt are in it (with 0) where repetition is penalised.
    seen: HashMap<u32, u32>,
}

/// Colder than this is greedy: logits closer than what it tells apart are the same but for rounding.
const TEMPERATURE_MIN: f32 = 1e-5;

/// Tokens this far below the likeliest (in logits over temperature) are never drawn: all of a large vocabulary together
/// would have a share of less than 0.000 002, and most of the work.
const DEPTH: f32 = 25.0;

/// Up to so many of the likeliest are picked before anything else is done with the logits.
const FEW: usize = 256;

/// A token, its logit after all adjustments, and its probability relative to the likeliest token's.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: u32,
    logit: f32,
    weight: f64,
}

/// Memory that one engine reuses for all sequences.
#[derive(Default)]
pub struct Scratch {
    logits: Vec<f32>,
    best: Vec<(u32, f32)>,
    candidates: Vec<Candidate>,
}

impl Sampler {
    /// A sampler for a sequence that starts with `prompt`.
    pub fn new(params: Params, prompt: &[u32]) -> Self {
        let counted: &[u32] = if params.repetition_penalty == 1.0 { &[] } else { prompt };
        Self { params, seen: counted.iter().map(|&id| (id, 0)).collect() }
    }

    /// The token at `position`, counted from the prompt's start; `next`: what is said of it.
    pub fn sample(
        &self,
        logits: &[f32],
        next: &Next,
        position: usize,
        scratch: &mut Scratch,
    ) -> Result<u32, NotFinite> {
        let Scratch { logits: adjusted, best: best_logits, candidates } = scratch;
        let Next { mask, biases, .. } = next;
        let logits = if mask.is_some() || !biases.is_empty() || self.adjusts() {
            adjusted.clear();
            adjusted.extend_from_slice(logits);
            self.adjust(adjusted);
            for &(id, bias) in biases {
                adjusted.get_mut(id as usize).into_iter().for_each(|logit| *logit += bias);
            }
            mask.iter().for_each(|mask| apply(mask, adjusted));
            adjusted
        } else {
            logits
        };
        let (best, highest) = argmax(logits, best_logits).ok_or(NotFinite)?;
        if self.params.temperature < TEMPERATURE_MIN {
            return Ok(best);
        }
        self.filter(logits, highest, best_logits, candidates);
        Ok(draw(candidates, uniform(self.params.seed, self.params.choice, position)))
    }

    /// Remembers a generated token.
    pub fn observe(&mut self, id: u32) {
        *self.seen.entry(id).or_default() += 1;
    }

    fn adjusts(&self) -> bool {
        let p = &self.params;
        let penalises = p.presence_penalty != 0.0 || p.frequency_penalty != 0.0 || p.repetition_penalty != 1.0;
        !p.logit_bias.is_empty() || (penalises && !self.seen.is_empty())
    }

    fn adjust(&self, logits: &mut [f32]) {
        let p = &self.params;
        for (&id, &count) in &self.seen {
            let Some(logit) = logits.get_mut(id as usize) else { continue };
            *logit = if *logit > 0.0 { *logit / p.repetition_penalty } else { *logit * p.repetition_penalty };
            if count > 0 {
                *logit -= p.presence_penalty + p.frequency_penalty * count as f32;
            }
        }
        for &(id, bias) in &p.logit_bias {
            if let Some(logit) = logits.get_mut(id as usize) {
                *logit += bias;
            }
        }
    }

    /// Fills `candidates` with what top-k, top-p and min-p leave; the likeliest is always among them.
    fn filter(&self, logits: &[f32], highest: f32, best: &mut Vec<(u32, f32)>, candidates: &mut Vec<Candidate>) {
        let p = &self.params;
        let scaled = |logit: f32| (logit - highest) / p.temperature;
        let candidate = |id, logit| Candidate { id, logit, weight: f64::from(scaled(logit).exp()) };
        candidates.clear();
        let k = p.top_k as usize;
        if (1..=FEW).contains(&k) {
            // One more, to know whether any are left out: only then they are in the order of their logits.
            kernels::top_k_of_row(logits, k + 1, best);
            best.retain(|&(_, logit)| scaled(logit) >= -DEPTH);
            match best.len() > k {
                true => best.truncate(k),
                false => best.sort_unstable_by_key(|&(id, _)| id),
            }
            candidates.extend(best.iter().map(|&(id, logit)| candidate(id, logit)));
        } else {
            // NaN compares as false.
            let near = (0..).zip(logits).filter(|&(_, &logit)| scaled(logit) >= -DEPTH);
            candidates.extend(near.map(|(id, &logit)| candidate(id, logit)));
            if k > 0 {
                keep_best(candidates, k);
            }
        }
        if p.top_p < 1.0 {
            keep_nucleus(candidates, f64::from(p.top_p));
        }
        if p.min_p > 0.0 {
            candidates.retain(|c| c.weight >= f64::from(p.min_p));
        }
    }
}

/// Makes impossible what the mask does not allow; tokens beyond the mask are not allowed.
fn apply(mask: &[u32], logits: &mut [f32]) {
    let words = mask.iter().copied().chain(std::iter::repeat(0));
    for (logits, word) in logits.chunks_mut(32).zip(words) {
        match word {
            0 => logits.fill(f32::NEG_INFINITY),
            u32::MAX => {}
            _ => logits.iter_mut().enumerate().for_each(|(bit, logit)| {
                if word >> bit & 1 == 0 {
                    *logit = f32::NEG_INFINITY;
                }
            }),
        }
    }
}

/// The candidate at the share `u` of all weights.
fn draw(candidates: &[Candidate], u: f64) -> u32 {
    let mut left = u * candidates.iter().map(|c| c.weight).sum::<f64>();
    let drawn = candidates.iter().find(|c| {
        left -= c.weight;
        left < 0.0
    });
    // Rounding can leave a rest behind the last candidate.
    drawn.or(candidates.last()).expect("the likeliest token is always a candidate").id
}

/// Candidates' logits are numbers, and 0 and -0 are equals.
fn better(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.logit.partial_cmp(&a.logit).unwrap_or(std::cmp::Ordering::Equal).then(a.id.cmp(&b.id))
}

/// The likeliest token and its logit; `None` where that is not finite. NaN never wins.
fn argmax(logits: &[f32], best: &mut Vec<(u32, f32)>) -> Option<(u32, f32)> {
    kernels::top_k_of_row(logits, 1, best);
    best.first().copied().filter(|(_, logit)| logit.is_finite())
}

/// Keeps the `k` best, sorted, unless there are no more.
fn keep_best(candidates: &mut Vec<Candidate>, k: usize) {
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k, better);
        candidates.truncate(k);
        candidates.sort_unstable_by(better);
    }
}

/// Keeps the fewest of the best whose probabilities reach `p`, sorted; at least one.
fn keep_nucleus(candidates: &mut Vec<Candidate>, p: f64) {
    let wanted = p * candidates.iter().map(|c| c.weight).sum::<f64>();
    // The nucleus is mostly a few hundred tokens: sort these first, and all only where they do not reach.
    let mut sorted = candidates.len().min(256);
    loop {
        if sorted < candidates.len() {
            candidates.select_nth_unstable_by(sorted, better);
        }
        candidates[..sorted].sort_unstable_by(better);
        let mut reached = 0.0;
        let within = candidates[..sorted].iter().position(|c| {
            reached += c.weight;
            reached >= wanted
        });
        match within {
            Some(last) => return candidates.truncate(last + 1),
            None if sorted == candidates.len() => return,
            None => sorted = candidates.len(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(params: Params, prompt: &[u32], generated: &[u32], logits: &[f32], position: usize) -> u32 {
        let mut sampler = Sampler::new(params, prompt);
        generated.iter().for_each(|&id| sampler.observe(id));
        sampler.sample(logits, &Next::default(), position, &mut Scratch::default()).unwrap()
    }

    /// How often each token comes, over many positions.
    fn shares(params: Params, logits: &[f32]) -> Vec<f64> {
        const N: usize = 20_000;
        let mut counts = vec![0.0; logits.len()];
        (0..N)
            .for_each(|position| counts[sample(params.clone(), &[], &[], logits, position) as usize] += 1.0 / N as f64);
        counts
    }

    fn close(a: &[f64], b: &[f64]) {
        // Four standard deviations of a share of one half, from 20 000 draws.
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 0.0142), "{a:?} is not {b:?}");
    }

    /// Logits whose softmax is 0.5, 0.25, 0.125, 0.125.
    fn halves() -> Vec<f32> {
        [0.5f32, 0.25, 0.125, 0.125].map(f32::ln).to_vec()
    }

    #[test]
    fn greedy_takes_the_best_and_the_lower_id_of_equals() {
        let greedy = Params { temperature: 0.0, ..Params::default() };
        assert_eq!(sample(greedy.clone(), &[], &[], &[0.0, 3.0, 3.0, f32::NAN], 0), 1);
        let mut scratch = Scratch::default();
        for broken in [[f32::NAN; 3], [f32::NEG_INFINITY; 3], [0.0, f32::INFINITY, 0.0]] {
            assert_eq!(
                Sampler::new(greedy.clone(), &[]).sample(&broken, &Next::default(), 0, &mut scratch),
                Err(NotFinite)
            );
            assert_eq!(
                Sampler::new(Params::default(), &[]).sample(&broken, &Next::default(), 0, &mut scratch),
                Err(NotFinite)
            );
        }
    }

    #[test]
    fn shares_follow_the_softmax_and_temperature_sharpens_it() {
        close(&shares(Params::default(), &halves()), &[0.5, 0.25, 0.125, 0.125]);
        let sharp = [0.25, 0.0625, 0.015625, 0.015625].map(|x| x / 0.34375);
        close(&shares(Params { temperature: 0.5, ..Params::default() }, &halves()), &sharp);
    }

    #[test]
    fn filters_leave_what_they_should() {
        let default = Params::default;
        close(&shares(Params { top_k: 2, ..default() }, &halves()), &[2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
        close(&shares(Params { top_p: 0.6, ..default() }, &halves()), &[2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
        close(&shares(Params { top_p: 0.0, ..default() }, &halves()), &[1.0, 0.0, 0.0, 0.0]);
        close(&shares(Params { top_p: 0.8, ..default() }, &halves()), &[0.5 / 0.875, 0.25 / 0.875, 0.125 / 0.875, 0.0]);
        close(&shares(Params { min_p: 0.4, ..default() }, &halves()), &[2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
        close(&shares(Params { top_k: 3, top_p: 0.5, ..default() }, &halves()), &[1.0, 0.0, 0.0, 0.0]);
    }

    #[test]
    fn penalties_and_bias_move_logits() {
        let greedy = |p: Params| Params { temperature: 0.0, ..p };
        let logits = [1.0, 0.9, -0.5];
        let presence = greedy(Params { presence_penalty: 0.2, ..Params::default() });
        assert_eq!(sample(presence.clone(), &[0], &[], &logits, 1), 0, "the prompt is not penalised");
        assert_eq!(sample(presence, &[], &[0], &logits, 1), 1);
        let frequency = greedy(Params { frequency_penalty: 0.06, ..Params::default() });
        assert_eq!(sample(frequency.clone(), &[], &[0], &logits, 1), 0);
        assert_eq!(sample(frequency, &[], &[0, 0], &logits, 2), 1);
        let repetition = greedy(Params { repetition_penalty: 2.0, ..Params::default() });
        assert_eq!(sample(repetition, &[0, 1], &[], &[1.0, 1.1, 0.6], 1), 2, "prompt tokens count");
        let bias = greedy(Params { logit_bias: vec![(2, 100.0), (99, 1.0)], ..Params::default() });
        assert_eq!(sample(bias, &[], &[], &logits, 1), 2);
    }

    #[test]
    fn extreme_parameters_still_choose_a_token() {
        let default = Params::default;
        let all = [
            Params { temperature: 1e-40, ..default() },
            Params { temperature: f32::MIN_POSITIVE, ..default() },
            Params { temperature: 2.0, ..default() },
            Params { top_p: 0.0, ..default() },
            Params { top_p: 1e-40, ..default() },
            Params { min_p: 1.0, ..default() },
            Params { min_p: 1.0, top_p: 0.0, top_k: 1, temperature: 1e-30, ..default() },
            Params { repetition_penalty: 0.01, ..default() },
            Params { repetition_penalty: 100.0, ..default() },
            Params { frequency_penalty: -2.0, presence_penalty: 2.0, ..default() },
            Params { logit_bias: (0..64).map(|id| (id, -100.0)).collect(), ..default() },
            Params { logit_bias: vec![(3, 100.0), (4, -100.0)], ..default() },
        ];
        let rows = [vec![0.0; 64], (0..64).map(|i| i as f32 * 9.0 - 300.0).collect(), vec![-3e4; 64], vec![3e4; 64]];
        for (params, logits) in all.iter().flat_map(|params| rows.iter().map(move |row| (params, row))) {
            let generated: Vec<u32> = (0..4096).map(|i| i % 64).collect();
            assert!(sample(params.clone(), &[0, 1], &generated, logits, 5) < 64, "{params:?}");
        }
        let coldest = Params { temperature: 1e-40, ..default() };
        assert_eq!(sample(coldest, &[], &[], &[1.0, 2.0, 1.9], 0), 1);
    }

    proptest! {
        #[test]
        fn the_nucleus_is_the_same_sorted_in_part_or_whole(
            logits in proptest::collection::vec(-8.0f32..8.0, 300..700), p in 0.05f64..0.999
        ) {
            let candidate = |(i, &logit): (usize, &f32)| Candidate { id: i as u32, logit, weight: f64::from(logit - 8.0).exp() };
            let mut all: Vec<_> = logits.iter().enumerate().map(candidate).collect();
            let mut fast = all.clone();
            keep_nucleus(&mut fast, p);
            all.sort_by(better);
            let share = |list: &[Candidate]| list.iter().map(|c| c.weight).sum::<f64>();
            let ids = |list: &[Candidate]| list.iter().map(|c| c.id).collect::<Vec<_>>();
            prop_assert_eq!(ids(&fast), ids(&all[..fast.len()]));
            prop_assert!(share(&fast) >= p * share(&all) * (1.0 - 1e-9));
            prop_assert!(share(&fast[..fast.len() - 1]) <= p * share(&all) * (1.0 + 1e-9));
        }

        #[test]
        fn few_are_picked_first_as_if_all_were_looked_at(
            logits in proptest::collection::vec(prop_oneof![-40.0f32..9.0, (-3i8..4).prop_map(f32::from)], 1..400), k in 1usize..300
        ) {
            let highest = logits.iter().copied().fold(f32::MIN, f32::max);
            let sampler = Sampler::new(Params { top_k: k as u32, ..Params::default() }, &[]);
            let (mut picked, mut best) = (Vec::new(), Vec::new());
            sampler.filter(&logits, highest, &mut best, &mut picked);
            let near = (0..).zip(&logits).filter(|(_, logit)| **logit - highest >= -DEPTH);
            let mut all: Vec<_> = near
                .map(|(id, &logit)| Candidate { id, logit, weight: f64::from((logit - highest).exp()) })
                .collect();
            keep_best(&mut all, k);
            prop_assert_eq!(format!("{picked:?}"), format!("{all:?}"));
        }

        #[test]
        fn the_best_is_found_wherever_it_is(logits in proptest::collection::vec(-9i8..9, 1..70)) {
            let logits: Vec<f32> = logits.into_iter().map(f32::from).collect();
            let highest = logits.iter().copied().fold(f32::MIN, f32::max);
            let first = logits.iter().position(|&l| l == highest).unwrap() as u32;
            prop_assert_eq!(argmax(&logits, &mut Vec::new()), Some((first, highest)));
        }

        #[test]
        fn a_draw_depends_on_its_keys_alone(
            logits in proptest::collection::vec(-4.0f32..4.0, 1..50), seed: u64, choice in 0u32..9, position in 0usize..999
        ) {
            let params = Params { seed, choice, top_p: 0.9, ..Params::default() };
            let once = sample(params.clone(), &[], &[], &logits, position);
            let mut used = Scratch::default();
            Sampler::new(Params::default(), &[]).sample(&[1.0; 80], &Next::default(), 3, &mut used).unwrap();
            prop_assert_eq!(Sampler::new(params, &[]).sample(&logits, &Next::default(), position, &mut used).unwrap(), once);
        }
    }
}
