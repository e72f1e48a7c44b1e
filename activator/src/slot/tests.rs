#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const POLICY: Policy = Policy {
    idle: Duration::from_secs(30),
    start_timeout: Duration::from_secs(60),
    drain_timeout: Duration::from_secs(10),
    renew_timeout: Duration::from_secs(300),
    hold_max: 2,
    concurrency: usize::MAX,
    min: 0,
    max: 1,
    target: 10.0,
};

const FIRST: LaunchId = LaunchId(1);
const SECOND: LaunchId = LaunchId(2);

fn request(id: u64) -> RequestId {
    RequestId(id)
}

/// As one of this tenant's, of equal weight.
fn claim(tenant: u32) -> Claim {
    let deadline = Instant::now() + Duration::from_secs(1 << 30);
    Claim { tenant: TenantId(tenant), weight: 1, priority: 0, hold_max: usize::MAX, deadline, prefixes: Vec::new() }
}

/// A request comes that claims nothing special.
fn arrived(id: u64) -> Event {
    Event::Arrived(request(id), claim(0))
}

fn died() -> Failure {
    Failure::internal("died")
}

fn bad() -> Failure {
    Failure { kind: FailureKind::BadSnapshot, message: "section weights, offset 4096".into() }
}

/// A slot, a clock, and everything that happened to it. There is room for every launch, but for one that is to succeed another only where that is
/// said.
struct Story {
    slot: Slot,
    now: Instant,
    surges: bool,
}

impl Story {
    fn new() -> Self {
        Self::with(POLICY)
    }

    fn with(policy: Policy) -> Self {
        Self { slot: Slot::new(policy), now: Instant::now(), surges: false }
    }

    /// What follows from an event.
    fn then(&mut self, event: Event) -> Vec<Effect> {
        let effects = self.slot.next(event, self.now);
        let mut done = Vec::new();
        for effect in effects {
            match effect {
                Effect::Place { launch, surge } if surge && !self.surges => {
                    done.extend(self.then(Event::NoRoom(launch)))
                }
                Effect::Place { launch, .. } => done.extend(self.then(Event::Placed(launch))),
                Effect::Release(_) => {}
                effect => done.push(effect),
            }
        }
        done
    }

    fn after(mut self, events: impl IntoIterator<Item = Event>) -> Self {
        for event in events {
            self.then(event);
        }
        self
    }

    /// Lets the next deadline pass.
    fn due(&mut self) -> Vec<Effect> {
        self.now = self.slot.deadline().unwrap();
        self.then(Event::Tick)
    }

    fn phase(&self) -> (Phase, usize, usize) {
        (self.slot.phase(), self.slot.held(), self.slot.in_flight())
    }
}

/// One slot in each phase, with one request held or in flight where that can be.
fn one_of_each() -> [(Phase, Story); 5] {
    let starting = || Story::new().after([arrived(1)]);
    let ready = || starting().after([Event::BecameReady(FIRST)]);
    let mut draining = ready().after([Event::Left(request(1))]);
    draining.due();
    let draining = draining.after([arrived(1)]);
    let failed = starting().after([Event::Exited(FIRST, died())]);
    [
        (Phase::Cold, Story::new()),
        (Phase::Starting, starting()),
        (Phase::Ready, ready()),
        (Phase::Draining, draining),
        (Phase::Failed, failed),
    ]
}

/// Works `event` into a slot in each phase and expects the phase, held, in flight and effects after it.
fn check(event: Event, expected: [((Phase, usize, usize), Vec<Effect>); 5]) {
    for ((before, mut story), (after, effects)) in one_of_each().into_iter().zip(expected) {
        assert_eq!(story.slot.phase(), before);
        assert_eq!(story.then(event.clone()), effects, "{event:?} while {before:?}");
        assert_eq!(story.phase(), after, "{event:?} while {before:?}");
    }
}

/// The phases of [`one_of_each`], unchanged by an event.
fn unchanged() -> [((Phase, usize, usize), Vec<Effect>); 5] {
    [
        ((Phase::Cold, 0, 0), vec![]),
        ((Phase::Starting, 1, 0), vec![]),
        ((Phase::Ready, 0, 1), vec![]),
        ((Phase::Draining, 1, 0), vec![]),
        ((Phase::Failed, 1, 0), vec![]),
    ]
}

#[test]
fn an_arrival_starts_a_cold_slot_passes_a_ready_one_and_waits_in_any_other() {
    let mut expected = unchanged();
    expected[0] = ((Phase::Starting, 1, 0), vec![Effect::Launch(FIRST)]);
    expected[1] = ((Phase::Starting, 2, 0), vec![]);
    expected[2] = ((Phase::Ready, 0, 2), vec![Effect::Admit(request(2), FIRST)]);
    expected[3] = ((Phase::Draining, 2, 0), vec![]);
    expected[4] = ((Phase::Failed, 2, 0), vec![]);
    check(arrived(2), expected);
}

#[test]
fn a_leaving_frees_the_place_and_changes_nothing_else() {
    let mut expected = unchanged();
    expected[1].0 = (Phase::Starting, 0, 0);
    expected[2].0 = (Phase::Ready, 0, 0);
    expected[3].0 = (Phase::Draining, 0, 0);
    expected[4].0 = (Phase::Failed, 0, 0);
    check(Event::Left(request(1)), expected);
    check(Event::Left(request(7)), unchanged());
}

#[test]
fn ready_admits_all_that_are_held_and_only_the_launch_that_starts_can_become_ready() {
    let mut expected = unchanged();
    expected[1] = ((Phase::Ready, 0, 1), vec![Effect::Admit(request(1), FIRST)]);
    check(Event::BecameReady(FIRST), expected);
    check(Event::BecameReady(LaunchId(9)), unchanged());
}

#[test]
fn an_exit_before_ready_fails_and_after_it_is_cold_at_once() {
    let mut expected = unchanged();
    expected[1].0 = (Phase::Failed, 1, 0);
    expected[2].0 = (Phase::Cold, 0, 0);
    expected[3] = ((Phase::Starting, 1, 0), vec![Effect::Launch(SECOND)]);
    check(Event::Exited(FIRST, died()), expected);
    check(Event::Exited(LaunchId(9), died()), unchanged());
}

#[test]
fn a_runtime_that_others_told_to_end_takes_nothing_new_and_has_its_time() {
    let mut expected = unchanged();
    expected[1] = ((Phase::Draining, 1, 0), vec![Effect::Kill(FIRST)]);
    expected[2] = ((Phase::Draining, 0, 0), vec![Effect::Drain(FIRST)]);
    check(Event::Leaves(FIRST), expected);
    check(Event::Leaves(LaunchId(9)), unchanged());
}

#[test]
fn a_broken_runtime_is_killed_and_leaves_only_when_its_exit_is_seen() {
    let mut expected = unchanged();
    expected[1] = ((Phase::Draining, 1, 0), vec![Effect::Kill(FIRST)]);
    expected[2] = ((Phase::Draining, 0, 0), vec![Effect::Kill(FIRST)]);
    check(Event::Broke(FIRST, died()), expected);
    check(Event::Broke(LaunchId(9), died()), unchanged());
}

#[test]
fn a_process_that_could_not_be_started_fails_without_an_exit() {
    let mut expected = unchanged();
    expected[1].0 = (Phase::Failed, 1, 0);
    check(Event::NotLaunched(FIRST, died()), expected);
    check(Event::NotLaunched(LaunchId(9), died()), unchanged());
}

#[test]
fn another_snapshot_ends_the_back_off() {
    let mut expected = unchanged();
    expected[4] = ((Phase::Starting, 1, 0), vec![Effect::Launch(SECOND)]);
    check(Event::SnapshotChanged, expected);
}

#[test]
fn a_tick_before_the_deadline_does_nothing() {
    check(Event::Tick, unchanged());
}

#[test]
fn a_tick_at_the_deadline_kills_drains_or_tries_again() {
    let due = |index: usize| {
        let mut story = one_of_each().into_iter().nth(index).unwrap().1;
        (story.due(), story.phase())
    };
    assert_eq!(due(1), (vec![Effect::Kill(FIRST)], (Phase::Draining, 1, 0)));
    assert_eq!(due(3), (vec![Effect::Kill(FIRST)], (Phase::Draining, 1, 0)));
    assert_eq!(due(4), (vec![Effect::Launch(SECOND)], (Phase::Starting, 1, 0)));
    let [(_, cold), _, (_, mut ready), ..] = one_of_each();
    assert_eq!((cold.slot.deadline(), ready.slot.deadline()), (None, None), "nothing to wait for");
    ready.then(Event::Left(request(1)));
    assert_eq!(ready.slot.deadline(), Some(ready.now + POLICY.idle));
    assert_eq!((ready.due(), ready.phase()), (vec![Effect::Drain(FIRST)], (Phase::Draining, 0, 0)));
}

#[test]
fn closing_refuses_who_is_held_and_ends_what_is_alive() {
    let refused = || Effect::Refuse(request(1), Refusal::Closing);
    let by = Instant::now();
    check(
        Event::Close { give_up_at: by },
        [
            ((Phase::Cold, 0, 0), vec![]),
            ((Phase::Draining, 0, 0), vec![refused(), Effect::Kill(FIRST)]),
            ((Phase::Draining, 0, 0), vec![Effect::Drain(FIRST)]),
            ((Phase::Draining, 0, 0), vec![refused()]),
            ((Phase::Cold, 0, 0), vec![refused()]),
        ],
    );
    for (_, story) in one_of_each() {
        let mut story = story.after([Event::Close { give_up_at: by }]);
        assert_eq!(story.then(arrived(5)), vec![Effect::Refuse(request(5), Refusal::Closing)]);
        story.then(Event::Exited(FIRST, died()));
        assert_eq!(story.phase(), (Phase::Cold, 0, 0));
    }
}

#[test]
fn held_requests_are_bounded() {
    for (phase, story) in one_of_each() {
        let mut story = story.after([arrived(2)]);
        story.then(arrived(3));
        let effects = story.then(arrived(4));
        match phase {
            Phase::Ready => assert_eq!(effects, vec![Effect::Admit(request(4), FIRST)]),
            _ => assert_eq!(effects, vec![Effect::Refuse(request(4), Refusal::Full)], "{phase:?}"),
        }
        // But not those that were let in before.
        let effects = story.then(Event::Returned(request(5)));
        match phase {
            Phase::Ready => assert_eq!(effects, vec![Effect::Admit(request(5), FIRST)]),
            _ => assert_eq!(effects, vec![], "{phase:?}"),
        }
    }
}

#[test]
fn failures_in_a_row_back_off_exponentially_and_the_third_answers_503() {
    let mut story = Story::new().after([arrived(1)]);
    for (failures, milliseconds) in [(1, 250), (2, 500)] {
        let failed_at = story.now;
        assert_eq!(story.then(Event::Exited(LaunchId(failures), died())), vec![], "held meanwhile");
        assert_eq!(story.due(), vec![Effect::Launch(LaunchId(failures + 1))]);
        assert_eq!(story.now - failed_at, Duration::from_millis(milliseconds));
    }
    let retry_after = Duration::from_secs(1);
    let refused = |id| Effect::Refuse(request(id), Refusal::Failed { failure: died(), retry_after });
    assert_eq!(story.then(Event::Exited(LaunchId(3), died())), vec![refused(1)]);
    assert_eq!(story.then(arrived(2)), vec![refused(2)]);
    assert_eq!(story.due(), vec![], "nobody asks");
    assert_eq!(story.phase(), (Phase::Cold, 0, 0));
    assert_eq!(story.then(arrived(3)), vec![Effect::Launch(LaunchId(4))]);
    story.then(Event::BecameReady(LaunchId(4)));
    story.then(Event::Exited(LaunchId(4), died()));
    story.then(arrived(4));
    assert_eq!(story.then(Event::Exited(LaunchId(5), died())), vec![], "a life that was ready ends the row");
    assert_eq!(back_off(1000), BACK_OFF_MAX);
}

#[test]
fn a_bad_snapshot_answers_at_once_until_the_back_off_is_over() {
    let mut story = Story::new().after([arrived(1)]);
    assert_eq!(story.then(Event::Broke(FIRST, bad())), vec![Effect::Kill(FIRST)]);
    let refused = |id| Effect::Refuse(request(id), Refusal::Failed { failure: bad(), retry_after: BACK_OFF_FIRST });
    assert_eq!(story.then(Event::Exited(FIRST, died())), vec![refused(1)]);
    assert_eq!(story.then(arrived(2)), vec![refused(2)]);
    story.now += BACK_OFF_FIRST;
    assert_eq!(story.then(arrived(3)), vec![Effect::Launch(SECOND)]);
}

#[test]
fn only_as_many_as_may_run_at_once_do_and_the_held_follow_fairly() {
    let mut story = Story::with(Policy { concurrency: 2, hold_max: 9, ..POLICY });
    (1..=4).for_each(|id| drop(story.then(arrived(id))));
    story.then(Event::Arrived(request(5), claim(1)));
    let admit = |id| Effect::Admit(request(id), FIRST);
    // The other tenant's first comes after this tenant's first, not after its fourth.
    assert_eq!(story.then(Event::BecameReady(FIRST)), vec![admit(1), admit(5)]);
    assert_eq!((story.phase(), story.slot.deadline()), ((Phase::Ready, 3, 2), None));
    assert_eq!(story.then(arrived(6)), vec![], "nobody passes those who wait");
    assert_eq!(story.then(Event::Returned(request(7))), vec![]);
    assert_eq!(story.then(Event::Left(request(1))), vec![admit(7)]);
    assert_eq!(story.then(Event::Left(request(2))), vec![], "it only waited");
    assert_eq!(story.then(Event::Left(request(5))), vec![admit(3)]);
    let more = Policy { concurrency: 4, hold_max: 9, ..POLICY };
    assert_eq!(story.then(Event::NewPolicy(more)), vec![admit(4), admit(6)]);
}

#[test]
fn one_tenant_cannot_fill_what_all_may_wait_in() {
    let mut story = Story::with(Policy { hold_max: 3, ..POLICY });
    let of = |tenant, id| Event::Arrived(request(id), Claim { hold_max: 2, ..claim(tenant) });
    let refused = |id, refusal| vec![Effect::Refuse(request(id), refusal)];
    story = story.after([of(0, 1), of(0, 2)]);
    assert_eq!(story.then(of(0, 3)), refused(3, Refusal::TenantFull));
    assert_eq!(story.then(of(1, 4)), vec![]);
    assert_eq!(story.then(of(1, 5)), refused(5, Refusal::Full));
}

#[test]
fn what_cannot_be_answered_in_time_is_turned_away_at_once_and_yet_wakes_the_model() {
    let mut story = Story::with(Policy { concurrency: 1, ..POLICY });
    let within = |story: &Story, id, seconds| {
        Event::Arrived(request(id), Claim { deadline: story.now + Duration::from_secs(seconds), ..claim(0) })
    };
    let seconds = Duration::from_secs;
    let late = |id, after| Effect::Refuse(request(id), Refusal::TooLate { retry_after: seconds(after) });
    assert_eq!(story.then(within(&story, 1, 1)), vec![Effect::Launch(FIRST)], "nothing is known yet");
    story.now += seconds(10);
    story.then(Event::BecameReady(FIRST));
    story.now += seconds(4);
    story.then(Event::Left(request(1)));
    story.due();
    story.then(Event::Exited(FIRST, died()));
    assert_eq!(story.then(within(&story, 2, 9)), vec![Effect::Launch(SECOND), late(2, 10)]);
    story.now += seconds(3);
    assert_eq!(story.then(within(&story, 3, 8)), vec![], "seven to go");
    assert_eq!(story.then(within(&story, 4, 10)), vec![late(4, 11)], "seven, and the other's four");
    assert_eq!(story.then(within(&story, 5, 11)), vec![]);
    story.then(Event::BecameReady(SECOND));
    assert_eq!(story.then(within(&story, 6, 3)), vec![late(6, 8)]);
}

#[test]
fn a_model_that_is_kept_is_there_without_being_asked_for() {
    let mut story = Story::with(Policy { min: 1, ..POLICY });
    assert_eq!(story.then(Event::Wanted), vec![Effect::Launch(FIRST)]);
    assert_eq!(story.then(Event::Wanted), vec![], "it comes");
    story.then(Event::BecameReady(FIRST));
    assert_eq!(story.slot.deadline(), None, "it is not drained");
    assert_eq!(story.then(Event::Exited(FIRST, died())), vec![], "soon after it was ready: not at once");
    assert_eq!(story.due(), vec![Effect::Launch(SECOND)]);
    story.then(Event::NewPolicy(POLICY));
    story.then(Event::BecameReady(SECOND));
    assert_eq!(story.due(), vec![Effect::Drain(SECOND)]);
    assert_eq!(story.then(Event::Exited(SECOND, died())), vec![]);
    let kept = Event::NewPolicy(Policy { min: 1, ..POLICY });
    assert_eq!(story.then(kept), vec![Effect::Launch(LaunchId(3))]);
    story.then(Event::Close { give_up_at: story.now });
    assert_eq!(story.then(Event::Exited(LaunchId(3), died())), vec![], "and it ends with the rest");
    assert_eq!(story.then(Event::Wanted), vec![]);
}

#[test]
fn a_kept_model_that_dies_again_and_again_is_started_less_and_less_often() {
    let mut story = Story::with(Policy { min: 1, ..POLICY });
    story.then(Event::Wanted);
    let mut pause = |launch, lived| {
        story.then(Event::BecameReady(LaunchId(launch)));
        story.now += lived;
        if story.then(Event::Exited(LaunchId(launch), died())) == vec![Effect::Launch(LaunchId(launch + 1))] {
            return 0;
        }
        let since = story.now;
        assert_eq!(story.due(), vec![Effect::Launch(LaunchId(launch + 1))]);
        (story.now - since).as_millis()
    };
    let (short, long) = (Duration::from_secs(1), SHORT_LIFE);
    let pauses =
        [(1, short), (2, short), (3, short), (4, long), (5, short)].map(|(launch, lived)| pause(launch, lived));
    assert_eq!(pauses, [250, 500, 1000, 0, 250]);
}

#[test]
fn a_wish_to_be_started_is_remembered_while_that_cannot_be() {
    let mut story =
        Story::new().after([arrived(1), Event::BecameReady(FIRST), Event::Left(request(1)), Event::Unwanted]);
    assert_eq!(story.then(Event::Wanted), vec![], "it drains");
    assert_eq!(story.then(Event::Exited(FIRST, died())), vec![Effect::Launch(SECOND)]);
    assert_eq!(story.then(Event::Exited(SECOND, died())), vec![]);
    assert_eq!(story.due(), vec![Effect::Launch(LaunchId(3))], "it failed, and is still wanted");
    story.then(Event::Unwanted);
    assert_eq!(story.then(Event::Exited(LaunchId(3), died())), vec![]);
    assert_eq!(story.phase(), (Phase::Cold, 0, 0));
}

#[test]
fn another_snapshot_is_served_when_what_runs_has_been_answered() {
    let mut expected = unchanged();
    expected[1] = ((Phase::Draining, 1, 0), vec![Effect::Kill(FIRST)]);
    expected[2] = ((Phase::Draining, 0, 0), vec![Effect::Drain(FIRST)]);
    expected[4] = ((Phase::Starting, 1, 0), vec![Effect::Launch(SECOND)]);
    check(Event::Renew, expected);
}

#[test]
fn what_nobody_needs_ends_unless_somebody_waits_for_it() {
    let mut expected = unchanged();
    expected[2] = ((Phase::Draining, 0, 0), vec![Effect::Drain(FIRST)]);
    check(Event::Unwanted, expected);
    let mut story = Story::new().after([Event::Wanted]);
    assert_eq!(story.then(Event::Unwanted), vec![Effect::Kill(FIRST)]);
    story.then(Event::Exited(FIRST, died()));
    assert_eq!(story.phase(), (Phase::Cold, 0, 0));
}

/// What the world does to a slot, at random. Whatever the slot was told to do is done, sooner or later.
#[derive(Clone, Copy, Debug)]
enum Move {
    Arrive,
    Return,
    Leave(prop::sample::Index),
    Ready,
    Break(bool),
    GoAway,
    Exit,
    NotLaunched,
    Pass(u64),
    SnapshotChanged,
    Wanted,
    Unwanted,
    Renew,
    NewPolicy(usize, bool),
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        4 => Just(Move::Arrive),
        1 => Just(Move::Return),
        2 => any::<prop::sample::Index>().prop_map(Move::Leave),
        3 => Just(Move::Ready),
        1 => any::<bool>().prop_map(Move::Break),
        1 => Just(Move::GoAway),
        2 => Just(Move::Exit),
        1 => Just(Move::NotLaunched),
        4 => (0..40_000u64).prop_map(Move::Pass),
        1 => Just(Move::SnapshotChanged),
        1 => Just(Move::Wanted),
        1 => Just(Move::Unwanted),
        1 => Just(Move::Renew),
        1 => (1..4usize, any::<bool>()).prop_map(|(concurrency, keep)| Move::NewPolicy(concurrency, keep)),
    ]
}

/// The world around one slot: who is alive, and who still waits for an answer.
struct World {
    story: Story,
    alive: Option<LaunchId>,
    was_ready: bool,
    waiting: BTreeSet<RequestId>,
    running: BTreeSet<RequestId>,
    arrived: u64,
}

impl World {
    fn happen(&mut self, event: Event) {
        for effect in self.story.then(event) {
            match effect {
                Effect::Launch(launch) => {
                    assert_eq!(self.alive.replace(launch), None, "two launches alive");
                    self.was_ready = false;
                }
                Effect::Drain(launch) | Effect::Kill(launch) => assert_eq!(self.alive, Some(launch)),
                Effect::Admit(request, launch) => {
                    assert_eq!(self.alive, Some(launch));
                    assert!(self.was_ready && self.waiting.remove(&request) && self.running.insert(request));
                }
                Effect::Refuse(request, _) => assert!(self.waiting.remove(&request), "answered twice"),
                Effect::Place { .. } | Effect::Release(_) => unreachable!("the story deals with them"),
            }
        }
        assert_eq!(self.story.slot.held(), self.waiting.len());
        assert!(self.story.slot.in_flight() <= self.running.len());
        assert_eq!(self.story.slot.replicas().keys().next().copied(), self.alive);
    }

    fn make(&mut self, action: Move) {
        match action {
            Move::Arrive => {
                self.arrived += 1;
                self.waiting.insert(request(self.arrived));
                self.happen(Event::Arrived(request(self.arrived), claim((self.arrived % 3) as u32)));
            }
            Move::Return => {
                self.arrived += 1;
                self.waiting.insert(request(self.arrived));
                self.happen(Event::Returned(request(self.arrived)));
            }
            Move::Leave(index) => {
                let all: Vec<_> = self.waiting.iter().chain(&self.running).copied().collect();
                if let Some(leaver) = (!all.is_empty()).then(|| *index.get(&all)) {
                    self.waiting.remove(&leaver);
                    self.running.remove(&leaver);
                    self.happen(Event::Left(leaver));
                }
            }
            Move::Ready => self.with_launch(|world, launch| {
                world.was_ready |= world.story.slot.phase() == Phase::Starting;
                world.happen(Event::BecameReady(launch));
            }),
            Move::Break(bad_snapshot) => self.with_launch(|world, launch| {
                world.happen(Event::Broke(launch, if bad_snapshot { bad() } else { died() }));
            }),
            Move::GoAway => self.with_launch(|world, launch| world.happen(Event::Leaves(launch))),
            Move::Exit => self.exit(|launch| Event::Exited(launch, died())),
            Move::NotLaunched if self.story.slot.phase() == Phase::Starting => {
                self.exit(|launch| Event::NotLaunched(launch, died()));
            }
            Move::NotLaunched => {}
            Move::Pass(milliseconds) => {
                self.story.now += Duration::from_millis(milliseconds);
                self.happen(Event::Tick);
            }
            Move::SnapshotChanged => self.happen(Event::SnapshotChanged),
            Move::Wanted => self.happen(Event::Wanted),
            Move::Unwanted => self.happen(Event::Unwanted),
            Move::Renew => self.happen(Event::Renew),
            Move::NewPolicy(concurrency, keep) => {
                self.happen(Event::NewPolicy(Policy { concurrency, min: usize::from(keep), ..POLICY }));
            }
        }
    }

    fn with_launch(&mut self, act: impl FnOnce(&mut Self, LaunchId)) {
        if let Some(launch) = self.alive {
            act(self, launch);
        }
    }

    fn exit(&mut self, event: impl FnOnce(LaunchId) -> Event) {
        if let Some(launch) = self.alive.take() {
            self.happen(event(launch));
        }
    }
}

proptest! {
    #[test]
    fn any_sequence_of_events_keeps_one_launch_and_answers_everybody(moves in prop::collection::vec(moves(), 0..200)) {
        let mut world = World {
            story: Story::new(),
            alive: None,
            was_ready: false,
            waiting: BTreeSet::new(),
            running: BTreeSet::new(),
            arrived: 0,
        };
        moves.into_iter().for_each(|action| world.make(action));
        world.make(Move::NewPolicy(1, false));
        // From here the world does what it is told: launches fail, so that the slot has to answer by itself.
        for _ in 0..2 * FAILURES_HELD_THROUGH {
            world.make(Move::Exit);
            world.make(Move::Pass(BACK_OFF_MAX.as_millis() as u64));
        }
        prop_assert!(world.waiting.is_empty(), "held for ever: {:?}", world.waiting);
    }
}
