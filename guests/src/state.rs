//! What guests keep between requests, by plug-in and scope.
//!
//! **Invariants:** nobody reads another plug-in's or another scope's values; all of it together stays within a bound, and so does one plug-in's part
//! in one scope; a value whose time is over is not there. It lives as long as the process.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::types::StateError;

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
}

fn cost(key: &str, value: &[u8]) -> usize {
    key.len() + value.len() + OVERHEAD_BYTES
}

impl State {
    pub(crate) fn get(&self, plugin: &str, scope: Scope, key: &str, now: Instant) -> Option<Vec<u8>> {
        let parts = self.parts();
        let value = parts.parts.get(&(plugin.to_owned(), scope))?.values.get(key)?;
        value.is_there(now).then(|| value.bytes.clone())
    }

    pub(crate) fn set(
        &self,
        plugin: &str,
        scope: Scope,
        (key, bytes): (&str, Vec<u8>),
        ttl_ms: u64,
        now: Instant,
    ) -> Result<(), StateError> {
        self.parts().put(plugin, scope, (key, bytes), ttl_ms, now)
    }

    /// A value that is no number, or not there, counts as 0.
    pub(crate) fn add(
        &self,
        plugin: &str,
        scope: Scope,
        (key, delta): (&str, i64),
        ttl_ms: u64,
        now: Instant,
    ) -> Result<i64, StateError> {
        let mut parts = self.parts();
        let value = parts.parts.get(&(plugin.to_owned(), scope)).and_then(|part| part.values.get(key));
        let value = value.filter(|value| value.is_there(now));
        let before = value.and_then(|value| std::str::from_utf8(&value.bytes).ok()?.parse::<i64>().ok()).unwrap_or(0);
        let after = before.saturating_add(delta);
        parts.put(plugin, scope, (key, after.to_string().into_bytes()), ttl_ms, now)?;
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
    fn put(
        &mut self,
        plugin: &str,
        scope: Scope,
        (key, bytes): (&str, Vec<u8>),
        ttl_ms: u64,
        now: Instant,
    ) -> Result<(), StateError> {
        if key.len() > KEY_BYTES_MAX || bytes.len() > VALUE_BYTES_MAX {
            return Err(StateError::TooLarge);
        }
        let more = cost(key, &bytes);
        if self.bytes.saturating_add(more) > ALL_BYTES_MAX {
            self.parts.values_mut().for_each(|part| part.forget_old(now));
            self.parts.retain(|_, part| !part.values.is_empty());
            self.bytes = self.parts.values().map(|part| part.bytes).sum();
        }
        let part = self.parts.entry((plugin.to_owned(), scope)).or_default();
        let before = part.bytes;
        if part.bytes.saturating_add(more) > PART_BYTES_MAX {
            part.forget_old(now);
        }
        let had = part.values.get(key).map_or(0, |value| cost(key, &value.bytes));
        let (of_part, others) = (part.bytes - had + more, self.bytes - before);
        if of_part > PART_BYTES_MAX || others + of_part > ALL_BYTES_MAX {
            self.bytes = others + part.bytes;
            return Err(if of_part > PART_BYTES_MAX { StateError::TooLarge } else { StateError::Unavailable });
        }
        let until = (ttl_ms > 0).then(|| now.checked_add(Duration::from_millis(ttl_ms))).flatten();
        part.earliest = part.earliest.into_iter().chain(until).min();
        part.values.insert(key.to_owned(), Value { bytes, until });
        part.bytes = of_part;
        self.bytes = others + of_part;
        Ok(())
    }
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

    #[test]
    fn nobody_sees_another_scopes_or_another_plugins_values() {
        let (state, now) = (State::default(), Instant::now());
        state.set("p", A, ("k", b"v".to_vec()), 0, now).unwrap();
        assert_eq!(state.get("p", A, "k", now).unwrap(), b"v");
        assert_eq!(state.get("p", B, "k", now), None);
        assert_eq!(state.get("q", A, "k", now), None);
        assert_eq!(state.add("p", B, ("k", 5), 0, now), Ok(5));
        assert_eq!(state.get("p", A, "k", now).unwrap(), b"v");
    }

    #[test]
    fn a_value_is_gone_when_its_time_is_over() {
        let (state, now) = (State::default(), Instant::now());
        state.set("p", A, ("k", b"v".to_vec()), 10, now).unwrap();
        assert!(state.get("p", A, "k", now + Duration::from_millis(9)).is_some());
        let later = now + Duration::from_millis(10);
        assert_eq!(state.get("p", A, "k", later), None);
        assert_eq!(state.add("p", A, ("k", 2), 0, later), Ok(2), "from nothing again");
        assert_eq!(state.add("p", A, ("k", -5), 0, later), Ok(-3));
        state.set("p", A, ("far", vec![]), u64::MAX, now).unwrap();
        assert_eq!(state.get("p", A, "far", later), Some(vec![]));
    }

    #[test]
    fn what_is_kept_is_bounded_and_what_is_old_makes_room() {
        let (state, now) = (State::default(), Instant::now());
        let big = || vec![0; VALUE_BYTES_MAX];
        assert_eq!(state.set("p", A, ("k", vec![0; VALUE_BYTES_MAX + 1]), 0, now), Err(StateError::TooLarge));
        assert_eq!(state.set("p", A, (&"k".repeat(KEY_BYTES_MAX + 1), vec![]), 0, now), Err(StateError::TooLarge));
        for key in ["1", "2", "3"] {
            state.set("p", A, (key, big()), 10, now).unwrap();
        }
        assert_eq!(state.set("p", A, ("4", big()), 0, now), Err(StateError::TooLarge));
        state.set("p", A, ("3", big()), 10, now).unwrap();
        state.set("p", A, ("4", big()), 0, now + Duration::from_millis(10)).unwrap();
        let full = (0..100).find_map(|scope| {
            let put = |key| state.set("q", Scope(scope), (key, big()), 0, now);
            ["1", "2", "3"].into_iter().find_map(|key| put(key).err())
        });
        assert_eq!(full, Some(StateError::Unavailable));
        let parts = state.parts();
        assert!(parts.bytes <= ALL_BYTES_MAX);
        assert_eq!(parts.bytes, parts.parts.values().map(|part| part.bytes).sum::<usize>());
    }
}
