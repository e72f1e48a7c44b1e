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

use crate::{
    keep::{Keeper, Kept},
    spec::Spec,
    types::StateError,
};

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
                tracing::warn!("what a guest has kept does not fit beside what is here now, and is gone");
            }
        }
        if has_own || keeper.is_stale(false) {
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
            Keeping::Here(mut keeper) => {
                if keeper.is_stale(true) {
                    keeper.rewrite(self.durable(now).collect());
                }
                keeper.close();
            }
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
        if keeper.is_stale(false) {
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
mod tests;
