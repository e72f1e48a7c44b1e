#![allow(clippy::unwrap_used)]

use super::*;

const A: Scope = Scope(1);
const B: Scope = Scope(2);

fn spec(name: &str) -> Spec {
    Spec::new(name)
}

fn durable(name: &str) -> Spec {
    Spec { durable: true, ..Spec::new(name) }
}

/// Until the clock has gone on, as times on it are compared.
fn a_moment_later() {
    let before = now_ms();
    while now_ms() < before + 2 {
        std::thread::yield_now();
    }
}

/// What is kept, by whose turn it is.
#[derive(Clone, Default)]
struct Memory(std::sync::Arc<Mutex<(bool, Vec<Kept>)>>);

impl Keeper for Memory {
    fn begin(&mut self) -> Result<Option<Vec<Kept>>, String> {
        let mut shared = self.0.lock().unwrap();
        let is_free = !std::mem::replace(&mut shared.0, true);
        let mut last: Vec<Kept> = Vec::new();
        for kept in &shared.1 {
            last.retain(|other| (&other.plugin, other.scope, &other.key) != (&kept.plugin, kept.scope, &kept.key));
            last.push(kept.clone());
        }
        Ok(is_free.then_some(last))
    }

    fn put(&mut self, kept: &Kept) {
        self.0.lock().unwrap().1.push(kept.clone());
    }

    fn is_stale(&self, _: bool) -> bool {
        self.0.lock().unwrap().1.len() > 8
    }

    fn rewrite(&mut self, all: Vec<Kept>) {
        self.0.lock().unwrap().1 = all;
    }

    fn close(&mut self) {}
}

#[test]
fn what_is_durable_outlives_its_process_and_nothing_else_does() {
    let (memory, now) = (Memory::default(), Instant::now());
    let first = State::default();
    first.set(&durable("p"), A, ("early", b"e".to_vec()), 0, now).unwrap();
    first.keep(Box::new(memory.clone()), now).unwrap();
    first.set(&durable("p"), A, ("k", b"v".to_vec()), 0, now).unwrap();
    first.set(&durable("p"), A, ("short", b"v".to_vec()), 1, now).unwrap();
    first.set(&spec("q"), A, ("k", b"v".to_vec()), 0, now).unwrap();
    assert_eq!(first.add(&durable("p"), B, ("n", 2), 60_000, now), Ok(2));
    memory.0.lock().unwrap().0 = false;
    a_moment_later();
    let second = State::default();
    second.keep(Box::new(memory), now).unwrap();
    assert_eq!(second.get(&durable("p"), A, "early", now).unwrap(), b"e");
    assert_eq!(second.get(&durable("p"), A, "k", now).unwrap(), b"v");
    assert_eq!(second.get(&durable("p"), A, "short", now), None, "its time was over meanwhile");
    assert_eq!(second.get(&spec("q"), A, "k", now), None);
    assert_eq!(second.add(&durable("p"), B, ("n", 3), 0, now), Ok(5));
}

#[test]
fn a_second_process_has_what_was_kept_when_it_is_its_turn() {
    let (memory, now) = (Memory::default(), Instant::now());
    let (old, new) = (State::default(), State::default());
    old.keep(Box::new(memory.clone()), now).unwrap();
    new.keep(Box::new(memory.clone()), now).unwrap();
    old.set(&durable("p"), A, ("both", b"old".to_vec()), 0, now).unwrap();
    old.set(&durable("p"), A, ("olds", b"1".to_vec()), 0, now).unwrap();
    a_moment_later();
    new.set(&durable("p"), A, ("both", b"new".to_vec()), 0, now).unwrap();
    new.set(&durable("p"), A, ("news", b"2".to_vec()), 0, now).unwrap();
    let later = now + TURN_EVERY;
    assert_eq!(new.get(&durable("p"), A, "olds", later), None, "the old one is still there");
    memory.0.lock().unwrap().0 = false;
    let later = later + TURN_EVERY;
    assert_eq!(new.get(&durable("p"), A, "olds", later).unwrap(), b"1");
    assert_eq!(new.get(&durable("p"), A, "both", later).unwrap(), b"new");
    let mut kept: Vec<String> = memory.0.lock().unwrap().1.iter().map(|kept| kept.key.clone()).collect();
    kept.sort();
    assert_eq!(kept, ["both", "news", "olds"]);
}

#[test]
fn what_is_kept_is_written_anew_when_it_has_grown() {
    let (memory, state, now) = (Memory::default(), State::default(), Instant::now());
    state.keep(Box::new(memory.clone()), now).unwrap();
    for n in 0..20 {
        state.add(&durable("p"), A, ("n", n), 0, now).unwrap();
    }
    assert!(memory.0.lock().unwrap().1.len() <= 9);
    assert_eq!(memory.0.lock().unwrap().1.last().unwrap().bytes, b"190");
    state.set(&durable("p"), A, ("long", b"x".to_vec()), u64::MAX, now).unwrap();
    assert_eq!(state.parts().durable(now).count(), 2, "whatever its time is");
}

#[test]
fn who_ends_before_its_turn_takes_it_if_it_can() {
    let (memory, now) = (Memory::default(), Instant::now());
    let (old, new) = (State::default(), State::default());
    old.keep(Box::new(memory.clone()), now).unwrap();
    new.keep(Box::new(memory.clone()), now).unwrap();
    new.set(&durable("p"), A, ("news", b"2".to_vec()), 0, now).unwrap();
    old.close(now);
    memory.0.lock().unwrap().0 = false;
    new.close(now);
    assert_eq!(memory.0.lock().unwrap().1[0].key, "news");
}

#[test]
fn nobody_sees_another_scopes_or_another_plugins_values() {
    let (state, now) = (State::default(), Instant::now());
    state.set(&spec("p"), A, ("k", b"v".to_vec()), 0, now).unwrap();
    assert_eq!(state.get(&spec("p"), A, "k", now).unwrap(), b"v");
    assert_eq!(state.get(&spec("p"), B, "k", now), None);
    assert_eq!(state.get(&spec("q"), A, "k", now), None);
    assert_eq!(state.add(&spec("p"), B, ("k", 5), 0, now), Ok(5));
    assert_eq!(state.get(&spec("p"), A, "k", now).unwrap(), b"v");
}

#[test]
fn a_value_is_gone_when_its_time_is_over() {
    let (state, now) = (State::default(), Instant::now());
    state.set(&spec("p"), A, ("k", b"v".to_vec()), 10, now).unwrap();
    assert!(state.get(&spec("p"), A, "k", now + Duration::from_millis(9)).is_some());
    let later = now + Duration::from_millis(10);
    assert_eq!(state.get(&spec("p"), A, "k", later), None);
    assert_eq!(state.add(&spec("p"), A, ("k", 2), 0, later), Ok(2), "from nothing again");
    assert_eq!(state.add(&spec("p"), A, ("k", -5), 0, later), Ok(-3));
    state.set(&spec("p"), A, ("far", vec![]), u64::MAX, now).unwrap();
    assert_eq!(state.get(&spec("p"), A, "far", later), Some(vec![]));
}

#[test]
fn what_is_kept_is_bounded_and_what_is_old_makes_room() {
    let (state, now) = (State::default(), Instant::now());
    let big = || vec![0; VALUE_BYTES_MAX];
    assert_eq!(state.set(&spec("p"), A, ("k", vec![0; VALUE_BYTES_MAX + 1]), 0, now), Err(StateError::TooLarge));
    assert_eq!(state.set(&spec("p"), A, (&"k".repeat(KEY_BYTES_MAX + 1), vec![]), 0, now), Err(StateError::TooLarge));
    for key in ["1", "2", "3"] {
        state.set(&spec("p"), A, (key, big()), 10, now).unwrap();
    }
    assert_eq!(state.set(&spec("p"), A, ("4", big()), 0, now), Err(StateError::TooLarge));
    state.set(&spec("p"), A, ("3", big()), 10, now).unwrap();
    state.set(&spec("p"), A, ("4", big()), 0, now + Duration::from_millis(10)).unwrap();
    let full = (0..100).find_map(|scope| {
        let put = |key| state.set(&spec("q"), Scope(scope), (key, big()), 0, now);
        ["1", "2", "3"].into_iter().find_map(|key| put(key).err())
    });
    assert_eq!(full, Some(StateError::Unavailable));
    let parts = state.parts();
    assert!(parts.bytes <= ALL_BYTES_MAX);
    assert_eq!(parts.bytes, parts.parts.values().map(|part| part.bytes).sum::<usize>());
}
