//! Who is placed, and who has to go: [`Placement::plan`].

use std::{cmp::Ordering, collections::BTreeSet, time::Instant};

use super::{Decision, Key, Need, Occupant, Placement, Resident, Wait};

/// A busy runtime is worth more than any idle one, in seconds of starting.
const BUSY: f64 = 1e9;

/// Room that can be made.
#[derive(Debug)]
struct Plan {
    slice: usize,
    victims: BTreeSet<Key>,
    cost: f64,
    /// Bytes that are left then.
    left: u64,
}

impl Placement {
    /// What becomes of those who wait, as far as that can be said now; to be asked again when it has been done, until nothing is said.
    pub fn plan(&mut self, now: Instant, look: impl Fn(Key) -> Occupant) -> Vec<Decision> {
        let mut decisions = Vec::new();
        let mut blocked = BTreeSet::new();
        let mut i = 0;
        while let Some(wait) = self.waiting.get(i).copied() {
            let decision = self.consider(i, wait, now, &look, &mut blocked, &mut decisions);
            match decision {
                Some(decision) => {
                    self.waiting.remove(i);
                    decisions.push(decision);
                }
                None => i += 1,
            }
        }
        self.retry_at = self.next_look(now, &look);
        decisions
    }

    /// What becomes of one; `blocked`: slices that somebody claims who came before.
    fn consider(
        &mut self,
        i: usize,
        wait: Wait,
        now: Instant,
        look: &impl Fn(Key) -> Occupant,
        blocked: &mut BTreeSet<usize>,
        decisions: &mut Vec<Decision>,
    ) -> Option<Decision> {
        let need = self.need(wait.key.slot);
        if let Some(why) = self.never(&need) {
            return Some(Decision::Never(wait.key, why));
        }
        if let Some(slice) = wait.target.or_else(|| self.fits(&wait, &need, blocked)) {
            // What is being made free for who came later is not for its own good.
            let before = if wait.target.is_some() { i } else { usize::MAX };
            let bytes = self.takes(&need, slice);
            if bytes > self.free(slice, wait.key, before) || self.is_barred(&wait) {
                return None;
            }
            self.residents.insert(wait.key, Resident { slice, bytes });
            return Some(Decision::Placed(wait.key));
        }
        if wait.surge {
            return Some(Decision::NoRoom(wait.key));
        }
        match self.make_room(&wait, &need, now, look) {
            Some(plan) if self.budget.take(plan.victims.len(), self.rules.swaps_per_minute, now) => {
                self.waiting[i].target = Some(plan.slice);
                decisions.extend(plan.victims.into_iter().map(Decision::Evict));
            }
            Some(_) | None => self.claim(&wait, &need, now, look, blocked),
        }
        None
    }

    /// Who has waited for too long lets nobody in any more who came later, where it could be itself.
    fn claim(
        &self,
        wait: &Wait,
        need: &Need,
        now: Instant,
        look: &impl Fn(Key) -> Occupant,
        blocked: &mut BTreeSet<usize>,
    ) {
        if now < wait.since + self.rules.residence || look(wait.key).ready > 0 {
            return;
        }
        let could = |slice: &usize| {
            let kept = self.bytes_on(*slice, |key| look(*key).kept);
            kept.saturating_add(self.takes(need, *slice)) <= self.slices[*slice]
        };
        blocked.extend(self.allowed(need).filter(could));
    }

    fn never(&self, need: &Need) -> Option<String> {
        let largest = self.allowed(need).map(|slice| self.slices[slice]).max();
        match largest {
            None => Some("none of the slices that it may be on exists".to_owned()),
            Some(largest) if largest < need.bytes && !need.guessed => Some(format!(
                "it needs {} of memory, and the largest slice that it may be on has {}; give it less with `memory`, or a larger slice",
                mebibytes(need.bytes),
                mebibytes(largest)
            )),
            Some(_) => None,
        }
    }

    fn allowed<'a>(&'a self, need: &'a Need) -> impl Iterator<Item = usize> + 'a {
        let allows = |slice: &usize| need.slices.as_ref().is_none_or(|slices| slices.contains(slice));
        (0..self.slices.len()).filter(allows)
    }

    /// Bytes that nobody has, and that are being made free for nobody else of the first so many who wait.
    fn free(&self, slice: usize, own: Key, of_the_first: usize) -> u64 {
        let taken = self.bytes_on(slice, |_| true);
        self.slices[slice].saturating_sub(taken).saturating_sub(self.pledged(slice, own, of_the_first))
    }

    /// Bytes that are being made free on a slice for others.
    fn pledged(&self, slice: usize, own: Key, of_the_first: usize) -> u64 {
        let others = self.waiting.iter().take(of_the_first);
        let others = others.filter(|wait| wait.target == Some(slice) && wait.key != own);
        others.fold(0, |sum, wait| sum.saturating_add(self.takes(&self.need(wait.key.slot), slice)))
    }

    /// Somebody is there beside whom its model may not be.
    fn is_barred(&self, wait: &Wait) -> bool {
        self.residents.keys().any(|key| self.conflict(key.slot, wait.key.slot))
    }

    /// Room is being made for somebody beside whom its model may not be.
    fn has_to_let_pass(&self, wait: &Wait) -> bool {
        let before = self.waiting.iter().filter(|other| other.target.is_some() && other.key != wait.key);
        before.into_iter().any(|other| self.conflict(other.key.slot, wait.key.slot))
    }

    /// The best slice with room as it is: without its like, then with the least left over.
    fn fits(&self, wait: &Wait, need: &Need, blocked: &BTreeSet<usize>) -> Option<usize> {
        if self.is_barred(wait) || self.has_to_let_pass(wait) {
            return None;
        }
        let like = |slice: usize| {
            self.residents.iter().any(|(key, resident)| resident.slice == slice && key.slot == wait.key.slot)
        };
        let free = |slice| self.free(slice, wait.key, usize::MAX);
        let fitting =
            self.allowed(need).filter(|slice| !blocked.contains(slice) && self.takes(need, *slice) <= free(*slice));
        fitting.min_by_key(|slice| (like(*slice), free(*slice), *slice))
    }

    /// The slice where it costs least to make room; none if nobody may go, or if what could go is not enough.
    fn make_room(&self, wait: &Wait, need: &Need, now: Instant, look: &impl Fn(Key) -> Occupant) -> Option<Plan> {
        if self.has_to_let_pass(wait) {
            return None;
        }
        let cost = |key: &Key| self.cost(*key, wait, now, look);
        // Whoever may not be there beside it has to go wherever it is.
        let barring: Vec<Key> =
            self.residents.keys().filter(|key| self.conflict(key.slot, wait.key.slot)).copied().collect();
        let staying: Vec<Key> = barring.into_iter().filter(|key| !look(*key).leaving).collect();
        let forced = staying.iter().map(cost).sum::<Option<f64>>()?;
        let plans = self.allowed(need).filter_map(|slice| self.plan_on(slice, wait, need, &staying, &cost, look));
        let better = |a: &Plan, b: &Plan| (a.cost.total_cmp(&b.cost)).then(a.left.cmp(&b.left));
        plans.map(|plan| Plan { cost: plan.cost + forced, ..plan }).min_by(better)
    }

    fn plan_on(
        &self,
        slice: usize,
        wait: &Wait,
        need: &Need,
        forced: &[Key],
        cost: &impl Fn(&Key) -> Option<f64>,
        look: &impl Fn(Key) -> Occupant,
    ) -> Option<Plan> {
        let room = self.slices[slice].checked_sub(self.takes(need, slice).saturating_add(self.pledged(
            slice,
            wait.key,
            usize::MAX,
        )))?;
        let mut taken = self.bytes_on(slice, |key| !look(*key).leaving && !forced.contains(key));
        let there = self.residents.iter().filter(|(key, resident)| resident.slice == slice && !forced.contains(key));
        let candidates = there.filter(|(key, _)| key.slot != wait.key.slot && !look(**key).leaving);
        let mut candidates: Vec<_> = candidates.filter_map(|(key, r)| Some((cost(key)?, *key, r.bytes))).collect();
        candidates.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut chosen = Vec::new();
        for candidate in candidates {
            if taken <= room {
                break;
            }
            taken -= candidate.2;
            chosen.push(candidate);
        }
        if taken > room {
            return None;
        }
        // Of those that were taken first, some may be small enough to stay after all; the dearest are asked first.
        chosen.reverse();
        chosen.retain(|(_, _, bytes)| match taken.checked_add(*bytes) {
            Some(with) if with <= room => {
                taken = with;
                false
            }
            Some(_) | None => true,
        });
        let sum = chosen.iter().map(|(cost, ..)| cost).sum();
        let victims = chosen.into_iter().map(|(_, key, _)| key).chain(forced.iter().copied()).collect();
        Some(Plan { slice, victims, cost: sum, left: room - taken })
    }

    /// What it costs that this one goes for that; `None` if it may stay.
    fn cost(&self, key: Key, wait: &Wait, now: Instant, look: &impl Fn(Key) -> Occupant) -> Option<f64> {
        let occupant = look(key);
        let stays = occupant.kept || occupant.ready_since.is_none_or(|since| now < since + self.rules.residence);
        if stays {
            return None;
        }
        let start = occupant.start.as_secs_f64();
        match occupant.idle_since {
            Some(since) => Some(start / (1.0 + now.saturating_duration_since(since).as_secs_f64())),
            None if now >= wait.since + self.rules.residence && look(wait.key).ready == 0 => Some(BUSY + start),
            None => None,
        }
    }

    /// When what nobody may do now may be done: somebody has been there, or has waited, for long enough, or there is one more swap.
    fn next_look(&self, now: Instant, look: &impl Fn(Key) -> Occupant) -> Option<Instant> {
        let residence = self.rules.residence;
        let undecided = || self.waiting.iter().filter(|wait| wait.target.is_none());
        undecided().next()?;
        let there = self.residents.keys().filter_map(|key| Some(look(*key).ready_since? + residence));
        let waited = undecided().map(|wait| wait.since + residence);
        let swap = self.budget.next(self.rules.swaps_per_minute, now);
        let swap = (swap.saturating_duration_since(now).as_millis() > 1).then_some(swap);
        there.chain(waited).chain(swap).filter(|at| at.cmp(&now) == Ordering::Greater).min()
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
