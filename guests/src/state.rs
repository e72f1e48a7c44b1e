//! What guests keep between requests, by plug-in and scope.
//!
//! **Invariants:** nobody reads another plug-in's or another scope's values; all of it together stays within a bound, and so does one plug-in's part
//! in one scope; a value whose time is over is not there. It lives as long as the process; what durable plug-ins keep is told to a [`Keeper`], in
//! order, and comes back from there. One process keeps at a time: another has what was kept once it is its turn, and of two values of one key the
//! younger counts.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{spec::Spec, types::StateError};

/// A value of a durable plug-in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Whose.
    pub plugin: String,
    /// Of whose requests.
    pub scope: Scope,
    /// Its name.
    pub key: String,
    /// Itself.
    pub bytes: Vec<u8>,
    /// When it was set, in milliseconds since 1970.
    pub at_ms: u64,
    /// When it is over, on the same clock; `None`: never.
    pub until_ms: Option<u64>,
}

/// Where durable values outlive the process. Called while everybody else waits: it is quick, and what takes long it does beside.
pub trait Keeper: Send {
    /// What was kept before, the last of each key; `None` while another process keeps. Asked again until it is this one's turn.
    ///
    /// # Errors
    /// What was kept cannot be read; for people.
    fn begin(&mut self) -> Result<Option<Vec<Kept>>, String>;

    /// Adds a value, in place of the one of its key.
    fn put(&mut self, kept: &Kept);

    /// Whether what is kept is to be written anew: much of it counts no more, or something of it could not be added.
    fn is_stale(&self) -> bool;

    /// Keeps exactly these, from now on or a little later.
    fn rewrite(&mut self, all: Vec<Kept>);

    /// Nothing more comes: waits until all is kept.
    fn close(&mut self);
}

/// How often it is asked whether it is this process's turn to keep.
const TURN_EVERY: Duration = Duration::from_secs(1);

/// Whose request it is: requests of one scope share values, others see nothing of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scope(pub u128);

/// A key at most, in bytes.
const KEY_BYTES_MAX: usize = 1024;
/// A value at most, in bytes.
const VALUE_BYTES_MAX: usize = 1 << 20;
/// One plug-in's values in one scope, with their keys, in bytes.
const PART_BYTES_MAX: usize = 4 << 20;
/// Everybody's, in bytes.
const ALL_BYTES_MAX: usize = 64 << 20;
/// What each value costs beside itself.
const OVERHEAD_BYTES: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub struct State(Mutex<Parts>);

#[derive(Debug, Default)]
struct Parts {
    parts: HashMap<(String, Scope), Part>,
    bytes: usize,
    keeping: Keeping,
}

/// How far this process keeps what is durable.
#[derive(Default)]
enum Keeping {
    /// Nowhere to.
    #[default]
    Nowhere,
    /// Another process does, as was seen at that time.
    NotYet(Box<dyn Keeper>, Instant),
    Here(Box<dyn Keeper>),
}

impl std::fmt::Debug for Keeping {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Nowhere => "Nowhere",
            Self::NotYet(..) => "NotYet",
            Self::Here(_) => "Here",
        })
    }
}

#[derive(Debug, Default)]
struct Part {
    values: HashMap<String, Value>,
    bytes: usize,
    /// When the first of them is over: before that there is nothing to be forgotten.
    earliest: Option<Instant>,
}

#[derive(Debug)]
struct Value {
    bytes: Vec<u8>,
    until: Option<Instant>,
    /// When a durable one was set, in milliseconds since 1970.
    at_ms: Option<u64>,
}

fn cost(key: &str, value: &[u8]) -> usize {
    key.len() + value.len() + OVERHEAD_BYTES
}

impl State {
    /// Durable values are kept by this keeper from now on, and what it has is there, if it is this process's turn.
    ///
    /// # Errors
    /// What was kept cannot be read.
    pub(crate) fn keep(&self, keeper: Box<dyn Keeper>, now: Instant) -> Result<(), String> {
        self.parts().begin(keeper, now)
    }

    /// Nothing more comes: waits until all that is durable is kept, if it is this process's turn now.
    pub(crate) fn close(&self, now: Instant) {
        self.parts().close(now);
    }

    /// Whether durable values have a keeper.
    pub(crate) fn is_kept(&self) -> bool {
        !matches!(self.parts().keeping, Keeping::Nowhere)
    }

    pub(crate) fn get(&self, spec: &Spec, scope: Scope, key: &str, now: Instant) -> Option<Vec<u8>> {
        let mut parts = self.parts();
        parts.take_turn(spec, now);
        let value = parts.parts.get(&(spec.name.clone(), scope))?.values.get(key)?;
        value.is_there(now).then(|| value.bytes.clone())
    }

    pub(crate) fn set(
        &self,
        spec: &Spec,
        scope: Scope,
        (key, bytes): (&str, Vec<u8>),
        ttl_ms: u64,
        now: Instant,
    ) -> Result<(), StateError> {
        let mut parts = self.parts();
        parts.take_turn(spec, now);
        parts.put(spec, scope, (key, bytes), ttl_ms, now)
    }

    /// A value that is no number, or not there, counts as 0.
    pub(crate) fn add(
        &self,
        spec: &Spec,
        scope: Scope,
        (key, delta): (&str, i64),
        ttl_ms: u64,
        now: Instant,
    ) -> Result<i64, StateError> {
        let mut parts = self.parts();
        parts.take_turn(spec, now);
        let value = parts.parts.get(&(spec.name.clone(), scope)).and_then(|part| part.values.get(key));
        let value = value.filter(|value| value.is_there(now));
        let before = value.and_then(|value| std::str::from_utf8(&value.bytes).ok()?.parse::<i64>().ok()).unwrap_or(0);
        let after = before.saturating_add(delta);
        parts.put(spec, scope, (key, after.to_string().into_bytes()), ttl_ms, now)?;
        Ok(after)
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        // Changed in steps that cannot panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Value {
    fn is_there(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

impl Parts {
    fn begin(&mut self, mut keeper: Box<dyn Keeper>, now: Instant) -> Result<(), String> {
        let Some(kept) = keeper.begin()? else {
            self.keeping = Keeping::NotYet(keeper, now);
            return Ok(());
        };
        let here_ms = now_ms();
        let has_own = self.durable(now).next().is_some();
        for kept in kept {
            let owner = (kept.plugin, kept.scope);
            let own = self.parts.get(&owner).and_then(|part| part.values.get(&kept.key)).and_then(|value| value.at_ms);
            let left = kept.until_ms.map(|until| until.saturating_sub(here_ms));
            if left == Some(0) || own.is_some_and(|own| own >= kept.at_ms) {
                continue;
            }
            let until = left.and_then(|left| now.checked_add(Duration::from_millis(left)));
            let value = Value { bytes: kept.bytes, until, at_ms: Some(kept.at_ms) };
            if self.insert(owner, kept.key, value, now).is_err() {
                tracing::warn!("not all that guests have kept fits any more");
            }
        }
        if has_own || keeper.is_stale() {
            keeper.rewrite(self.durable(now).collect());
        }
        self.keeping = Keeping::Here(keeper);
        Ok(())
    }

    /// Another process may have ended that has kept until now.
    fn take_turn(&mut self, spec: &Spec, now: Instant) {
        let is_late =
            matches!(&self.keeping, Keeping::NotYet(_, asked) if now.saturating_duration_since(*asked) >= TURN_EVERY);
        if spec.durable && is_late {
            self.ask_for_turn(now);
        }
    }

    fn ask_for_turn(&mut self, now: Instant) {
        match std::mem::take(&mut self.keeping) {
            Keeping::NotYet(keeper, _) => {
                if let Err(error) = self.begin(keeper, now) {
                    tracing::error!(
                        error,
                        "what guests have kept cannot be read: it is left as it is, and nothing more is kept"
                    );
                }
            }
            other => self.keeping = other,
        }
    }

    fn close(&mut self, now: Instant) {
        self.ask_for_turn(now);
        match std::mem::take(&mut self.keeping) {
            Keeping::Here(mut keeper) => keeper.close(),
            Keeping::NotYet(..) if self.durable(now).next().is_some() => {
                tracing::warn!("what guests have kept here is lost: another runtime of the model keeps");
            }
            Keeping::NotYet(..) | Keeping::Nowhere => {}
        }
    }

    /// Every durable value that is there.
    fn durable(&self, now: Instant) -> impl Iterator<Item = Kept> {
        let here_ms = now_ms();
        let kept = move |(plugin, scope): &(String, Scope), key: &String, value: &Value| {
            let left =
                |until: Instant| u64::try_from(until.saturating_duration_since(now).as_millis()).unwrap_or(u64::MAX);
            let until_ms = value.until.map(|until| here_ms.saturating_add(left(until)));
            let (plugin, key, bytes) = (plugin.clone(), key.clone(), value.bytes.clone());
            Some(Kept { plugin, scope: *scope, key, bytes, at_ms: value.at_ms?, until_ms })
        };
        self.parts.iter().flat_map(move |(owner, part)| {
            let there = part.values.iter().filter(move |(_, value)| value.is_there(now));
            there.filter_map(move |(key, value)| kept(owner, key, value))
        })
    }

    fn put(
        &mut self,
        spec: &Spec,
        scope: Scope,
        (key, bytes): (&str, Vec<u8>),
        ttl_ms: u64,
        now: Instant,
    ) -> Result<(), StateError> {
        let until = (ttl_ms > 0).then(|| now.checked_add(Duration::from_millis(ttl_ms))).flatten();
        let at_ms = spec.durable.then(now_ms);
        let kept = at_ms.filter(|_| matches!(self.keeping, Keeping::Here(_))).map(|at_ms| Kept {
            plugin: spec.name.clone(),
            scope,
            key: key.to_owned(),
            bytes: bytes.clone(),
            at_ms,
            until_ms: until.map(|_| at_ms.saturating_add(ttl_ms)),
        });
        self.insert((spec.name.clone(), scope), key.to_owned(), Value { bytes, until, at_ms }, now)?;
        let (Some(kept), Keeping::Here(keeper)) = (kept, &mut self.keeping) else { return Ok(()) };
        keeper.put(&kept);
        if keeper.is_stale() {
            let all = self.durable(now).collect();
            if let Keeping::Here(keeper) = &mut self.keeping {
                keeper.rewrite(all);
            }
        }
        Ok(())
    }

    fn insert(&mut self, owner: (String, Scope), key: String, value: Value, now: Instant) -> Result<(), StateError> {
        let bytes = &value.bytes;
        if key.len() > KEY_BYTES_MAX || bytes.len() > VALUE_BYTES_MAX {
            return Err(StateError::TooLarge);
        }
        let more = cost(&key, bytes);
        if self.bytes.saturating_add(more) > ALL_BYTES_MAX {
            self.parts.values_mut().for_each(|part| part.forget_old(now));
            self.parts.retain(|_, part| !part.values.is_empty());
            self.bytes = self.parts.values().map(|part| part.bytes).sum();
        }
        let part = self.parts.entry(owner).or_default();
        let before = part.bytes;
        if part.bytes.saturating_add(more) > PART_BYTES_MAX {
            part.forget_old(now);
        }
        let had = part.values.get(&key).map_or(0, |value| cost(&key, &value.bytes));
        let (of_part, others) = (part.bytes - had + more, self.bytes - before);
        if of_part > PART_BYTES_MAX || others + of_part > ALL_BYTES_MAX {
            self.bytes = others + part.bytes;
            return Err(if of_part > PART_BYTES_MAX { StateError::TooLarge } else { StateError::Unavailable });
        }
        part.earliest = part.earliest.into_iter().chain(value.until).min();
        part.values.insert(key, value);
        part.bytes = of_part;
        self.bytes = others + of_part;
        Ok(())
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl Part {
    fn forget_old(&mut self, now: Instant) {
        if self.earliest.is_none_or(|earliest| now < earliest) {
            return;
        }
        self.values.retain(|_, value| value.is_there(now));
        self.earliest = self.values.values().filter_map(|value| value.until).min();
        self.bytes = self.values.iter().map(|(key, value)| cost(key, &value.bytes)).sum();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const A: Scope = Scope(1);
    const B: Scope = Scope(2);

    fn spec(name: &str) -> Spec {
        Spec::new(name)
    }

    fn durable(name: &str) -> Spec {
        Spec { durable: true, ..Spec::new(name) }
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

        fn is_stale(&self) -> bool {
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
        std::thread::sleep(Duration::from_millis(2));
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
        std::thread::sleep(Duration::from_millis(2));
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
        assert_eq!(
            state.set(&spec("p"), A, (&"k".repeat(KEY_BYTES_MAX + 1), vec![]), 0, now),
            Err(StateError::TooLarge)
        );
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
}
