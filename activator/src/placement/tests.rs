#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use super::*;

/// Slices, models of so many bytes, and a clock.
struct Story {
    placement: Placement,
    now: Instant,
    occupants: HashMap<Key, Occupant>,
}

fn key(slot: usize) -> Key {
    Key { slot: SlotId(slot), launch: LaunchId(1) }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Story {
    fn new(slices: &[u64], needs: &[u64]) -> Self {
        let mut placement = Placement::new(slices.to_vec());
        let needs = needs.iter().map(|bytes| Need { bytes: *bytes, ..Need::default() }).collect();
        placement.configure(needs, Rules::default());
        Self { placement, now: Instant::now(), occupants: HashMap::new() }
    }

    fn rules(mut self, change: impl FnOnce(&mut Rules)) -> Self {
        let (needs, mut rules) = (self.placement.needs.clone(), self.placement.rules.clone());
        change(&mut rules);
        self.placement.configure(needs, rules);
        self
    }

    fn plan(&mut self) -> Vec<Decision> {
        let occupants = &self.occupants;
        self.placement.plan(self.now, |key| occupants.get(&key).copied().unwrap_or_default())
    }

    fn ask(&mut self, key: Key) -> Vec<Decision> {
        self.placement.ask(key, false, self.now);
        self.plan()
    }

    /// Each of these is placed, and has been ready and idle for so many seconds; a start took one.
    fn idle(mut self, idle: &[(usize, u64)]) -> Self {
        for (slot, _) in idle {
            assert_eq!(self.ask(key(*slot)), [Decision::Placed(key(*slot))]);
        }
        self.now += seconds(1000);
        let now = self.now;
        for (slot, idle) in idle {
            self.occupy(key(*slot), |occupant| occupant.idle_since = Some(now - seconds(*idle)));
        }
        self
    }

    fn occupy(&mut self, key: Key, change: impl FnOnce(&mut Occupant)) {
        let since = self.now - seconds(1000);
        let occupant = self.occupants.entry(key).or_insert(Occupant {
            ready_since: Some(since),
            idle_since: None,
            start: seconds(1),
            ready: 1,
            ..Occupant::default()
        });
        change(occupant);
    }

    fn evicted(&mut self, key: Key) {
        self.occupants.remove(&key);
        self.placement.release(key);
    }
}

#[test]
fn each_goes_where_least_is_left_over() {
    let mut story = Story::new(&[10, 5, 7], &[5, 5, 6, 4]);
    for (slot, slice) in [(0, 1), (1, 2), (2, 0), (3, 0)] {
        assert_eq!(story.ask(key(slot)), [Decision::Placed(key(slot))]);
        assert_eq!(story.placement.slice_of(key(slot)), Some(slice), "{slot}");
    }
    assert_eq!(story.placement.used(), [10, 5, 5]);
}

#[test]
fn a_second_runtime_of_a_model_goes_where_the_first_is_not() {
    let mut story = Story::new(&[10, 100], &[4]);
    let second = Key { launch: LaunchId(2), ..key(0) };
    story.ask(key(0));
    story.ask(second);
    assert_eq!([key(0), second].map(|key| story.placement.slice_of(key)), [Some(0), Some(1)]);
}

#[test]
fn what_fits_nowhere_is_told_at_once_with_numbers() {
    let mut story = Story::new(&[10 << 20], &[11 << 20]);
    let [Decision::Never(asked, why)] = &story.ask(key(0))[..] else { panic!() };
    assert_eq!(*asked, key(0));
    assert!(why.contains("11.0 MiB") && why.contains("10.0 MiB"), "{why}");
    let mut nowhere = Story::new(&[10], &[1]);
    nowhere.placement.needs[0].slices = Some(BTreeSet::from([7]));
    assert!(matches!(&nowhere.ask(key(0))[..], [Decision::Never(..)]));
}

#[test]
fn a_guess_takes_a_smaller_slice_whole() {
    let mut story = Story::new(&[10], &[11, 1]);
    story.placement.needs[0].guessed = true;
    assert_eq!(story.ask(key(0)), [Decision::Placed(key(0))]);
    assert_eq!((story.placement.used(), story.ask(key(1))), (vec![10], vec![]));
}

#[test]
fn what_starts_fast_and_was_idle_for_long_goes_first() {
    let mut story = Story::new(&[10], &[5, 5, 5]).idle(&[(0, 10), (1, 100)]);
    assert_eq!(story.ask(key(2)), [Decision::Evict(key(1))]);
    let mut story = Story::new(&[10], &[5, 5, 5]).idle(&[(0, 10), (1, 100)]);
    story.occupy(key(1), |slow| slow.start = seconds(60));
    assert_eq!(story.ask(key(2)), [Decision::Evict(key(0))]);
    assert_eq!(story.plan(), [], "it is on its way out");
    story.occupy(key(0), |occupant| (occupant.leaving, occupant.ready_since) = (true, None));
    assert_eq!(story.plan(), []);
    story.evicted(key(0));
    assert_eq!(story.plan(), [Decision::Placed(key(2))]);
}

#[test]
fn no_more_have_to_go_than_must() {
    // The cheapest two are too small together with nothing else; with the third, the second may stay.
    let mut story = Story::new(&[10], &[2, 3, 5, 7]).idle(&[(0, 1000), (1, 500), (2, 10)]);
    assert_eq!(story.ask(key(3)), [Decision::Evict(key(0)), Decision::Evict(key(2))]);
}

#[test]
fn who_is_kept_or_busy_or_new_stays() {
    for change in [
        (|occupant| occupant.kept = true) as fn(&mut Occupant),
        |occupant| occupant.idle_since = None,
        |occupant| occupant.ready_since = Some(Instant::now() + Duration::from_secs(999)),
    ] {
        let mut story = Story::new(&[10], &[10, 10]).idle(&[(0, 10)]);
        story.occupy(key(0), change);
        assert_eq!(story.ask(key(1)), []);
    }
}

#[test]
fn a_new_one_goes_when_its_time_is_over_and_a_busy_one_when_the_others_patience_is() {
    let mut story = Story::new(&[10], &[10, 10]).idle(&[(0, 0)]);
    let since = story.now - seconds(3);
    story.occupy(key(0), |occupant| occupant.ready_since = Some(since));
    assert_eq!(story.ask(key(1)), []);
    assert_eq!(story.placement.deadline(), Some(story.now + seconds(7)));
    story.now += seconds(7);
    assert_eq!(story.plan(), [Decision::Evict(key(0))]);

    let mut story = Story::new(&[10], &[10, 10]).idle(&[(0, 0)]);
    story.occupy(key(0), |occupant| occupant.idle_since = None);
    assert_eq!(story.ask(key(1)), []);
    assert_eq!(story.placement.deadline(), Some(story.now + seconds(10)));
    story.now += seconds(10);
    // One more runtime of a model that has some waits for idle ones alone.
    story.occupants.insert(key(1), Occupant { ready: 1, ..Occupant::default() });
    assert_eq!(story.plan(), []);
    story.occupants.remove(&key(1));
    assert_eq!(story.plan(), [Decision::Evict(key(0))]);
}

#[test]
fn room_that_is_made_for_one_is_not_taken_by_another() {
    let mut story = Story::new(&[10], &[6, 10, 3]).idle(&[(0, 10)]);
    assert_eq!(story.ask(key(1)), [Decision::Evict(key(0))]);
    assert_eq!(story.ask(key(2)), [], "it would fit beside who goes, and be in the way");
    story.evicted(key(0));
    assert_eq!(story.plan(), [Decision::Placed(key(1))]);
}

#[test]
fn who_waits_for_long_is_not_overtaken_for_ever() {
    let mut story = Story::new(&[10], &[6, 10, 3]).idle(&[(0, 0)]);
    let now = story.now;
    story.occupy(key(0), |occupant| (occupant.idle_since, occupant.ready_since) = (None, Some(now + seconds(5))));
    assert_eq!(story.ask(key(1)), []);
    story.now += seconds(11);
    assert_eq!(story.ask(key(2)), [], "it would be one more that has to go");
}

#[test]
fn one_that_succeeds_another_finds_room_or_is_told_that_there_is_none() {
    let mut story = Story::new(&[10], &[4]);
    story.ask(key(0));
    let successor = |launch| Key { launch: LaunchId(launch), ..key(0) };
    story.placement.ask(successor(2), true, story.now);
    assert_eq!(story.plan(), [Decision::Placed(successor(2))]);
    story.placement.ask(successor(3), true, story.now);
    assert_eq!(story.plan(), [Decision::NoRoom(successor(3))]);
    assert!(!story.placement.is_wanted());
}

#[test]
fn members_of_a_group_take_turns() {
    let group = |together, alone| Group { members: [SlotId(0), SlotId(1)].into(), together, alone };
    let turns = |group: Group, asks: usize| {
        let mut story = Story::new(&[100], &[1, 1, 1]).rules(|rules| rules.groups = vec![group]).idle(&[(0, 10)]);
        let said = story.ask(key(asks));
        (story, said)
    };
    let (mut story, said) = turns(group(false, false), 1);
    assert_eq!(said, [Decision::Evict(key(0))]);
    story.evicted(key(0));
    assert_eq!(story.plan(), [Decision::Placed(key(1))]);
    assert_eq!(turns(group(false, false), 2).1, [Decision::Placed(key(2))]);
    assert_eq!(turns(group(true, true), 1).1, [Decision::Placed(key(1))]);
    assert_eq!(turns(group(true, true), 2).1, [Decision::Evict(key(0))]);
}

#[test]
fn swaps_are_so_many_a_minute() {
    let mut story = Story::new(&[10], &[10, 10, 10]).rules(|rules| rules.swaps_per_minute = 1).idle(&[(0, 10)]);
    assert_eq!(story.ask(key(1)), [Decision::Evict(key(0))]);
    story.evicted(key(0));
    assert_eq!(story.plan(), [Decision::Placed(key(1))]);
    let now = story.now;
    story.occupy(key(1), |occupant| (occupant.idle_since, occupant.ready_since) = (Some(now), Some(now - seconds(20))));
    assert_eq!(story.ask(key(2)), []);
    let (since, mut looks) = (story.now, 0);
    while story.plan() != [Decision::Evict(key(1))] {
        story.now = story.placement.deadline().unwrap();
        looks += 1;
    }
    assert_eq!(((story.now - since).as_secs(), looks), (60, 2));
}
