//! What a request needs to know of the configuration: names, tenants, times. It is replaced as a whole when the configuration changes; a request
//! keeps what it came in with.
//!
//! **Invariant:** a slot keeps its number for as long as the process lives, and a model's name its slot, also when it is gone for a while.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use protocol::{ApiError, answer::ModelCard};
use serde_json::{
    Map, Value,
    value::{RawValue, to_raw_value},
};

use crate::{
    config::{Config, ConfigError, GroupEntry, ModelEntry},
    metrics::{Metrics, ModelCounts},
    placement::{Group, Need, Rules},
    scaler::SlotId,
    slot::Policy,
    tenants::{Book, Caller, Tenants, jwt::Issuer, key::Keys},
};

/// A model, as requests see it.
#[derive(Debug)]
pub struct Route {
    /// Its place.
    pub slot: SlotId,
    /// Its name and age.
    pub card: ModelCard,
    /// Its snapshot's digest, where that could be read.
    pub digest: Option<String>,
    /// A request's deadline where it names none.
    pub timeout: Duration,
    /// Requests held at most.
    pub hold_max: usize,
    /// There may be more than one runtime of it.
    pub has_several: bool,
    /// Fields of requests that say nothing of them.
    pub sampling: Map<String, Value>,
    counts: OnceLock<Arc<ModelCounts>>,
}

/// Everything that can change while we serve. See the module.
#[derive(Debug)]
pub struct Settings {
    /// In the order of the configuration.
    routes: Vec<Arc<Route>>,
    by_name: HashMap<String, Arc<Route>>,
    /// Who may ask.
    pub tenants: Tenants,
    /// Good for what changes something on the admin port.
    pub admin_keys: Keys<()>,
    /// A held streaming request gets its headers after this time.
    pub early_headers_after: Duration,
}

/// A model and what was seen of its file.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The model.
    pub entry: ModelEntry,
    /// Its card.
    pub card: ModelCard,
    /// Its digest.
    pub digest: Option<String>,
    /// Its size.
    pub bytes: u64,
}

/// What a slot is to be.
#[derive(Clone, Debug)]
pub struct SlotSpec {
    /// Its model; where that is gone, as it was.
    pub entry: ModelEntry,
    /// Of its snapshot.
    pub digest: Option<String>,
    /// Times and bounds.
    pub policy: Policy,
    /// What each of its runtimes needs of a slice.
    pub need: Need,
    /// Memory for keys and values, if that is said.
    pub kv_memory_bytes: Option<u64>,
    /// Its model is gone from the configuration.
    pub retired: bool,
}

/// What outlives every change: numbers of slots and of tenants.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Names of the slices that there are.
    slices: Vec<String>,
    slots: Vec<SlotSpec>,
    by_name: HashMap<String, SlotId>,
    tenants: Book,
}

/// A runtime needs so much beside its weights and its keys and values.
const OVERHEAD_BYTES: u64 = 64 << 20;

/// What a runtime takes of its slice without any keys and values, with a snapshot of so many bytes.
pub fn least_memory(snapshot_bytes: u64) -> u64 {
    snapshot_bytes.saturating_add(OVERHEAD_BYTES)
}

impl Ledger {
    /// Nothing yet; these are the slices' names.
    pub fn new(slices: Vec<String>) -> Self {
        Self { slices, ..Self::default() }
    }

    /// Whether a configuration can be entered.
    ///
    /// # Errors
    /// A model is to be on a slice that there is not.
    pub fn check(&self, config: &Config) -> Result<(), ConfigError> {
        config.check_slices(&self.slices)
    }

    /// The settings and slots of a configuration that has been checked ([`Ledger::check`], too); slots that were there before keep their numbers.
    pub fn enter(
        &mut self,
        config: &Config,
        seen: Vec<Seen>,
        issuers: Vec<Arc<Issuer>>,
    ) -> (Settings, Vec<SlotSpec>, Rules) {
        for slot in &mut self.slots {
            // Who is held or running is answered; then it ends.
            (slot.retired, slot.policy.min, slot.policy.idle) = (true, 0, Duration::ZERO);
        }
        let routes: Vec<Arc<Route>> = seen.into_iter().map(|seen| Arc::new(self.route(config, seen))).collect();
        let names = |route: &Arc<Route>| {
            let aliases = self.slots[route.slot.0].entry.aliases.iter().cloned();
            std::iter::once(route.card.id.clone()).chain(aliases).map(|name| (name, route.clone())).collect::<Vec<_>>()
        };
        let by_name = routes.iter().flat_map(names).collect();
        let anonymous = config.anonymous || config.asks_nobody();
        let tenants = Tenants::new(&config.tenants, issuers, anonymous, &mut self.tenants);
        let mut admin_keys = Keys::default();
        for key in &config.admin_keys {
            admin_keys.add(key.clone(), ());
        }
        let early_headers_after = config.early_headers_after;
        let settings = Settings { routes, by_name, tenants, admin_keys, early_headers_after };
        (settings, self.slots.clone(), self.rules(config))
    }

    fn route(&mut self, config: &Config, seen: Seen) -> Route {
        let Seen { entry, card, digest, bytes } = seen;
        let (policy, need) = (config.policy(&entry), self.need(&entry, bytes));
        let kv_memory_bytes = entry.memory.map(|memory| memory.saturating_sub(least_memory(bytes)));
        let route = |slot| Route {
            slot,
            card,
            digest: digest.clone(),
            timeout: entry.timeout.unwrap_or(config.timeout),
            hold_max: policy.hold_max,
            has_several: policy.max > 1,
            sampling: entry.sampling.clone(),
            counts: OnceLock::new(),
        };
        let next = SlotId(self.slots.len());
        let slot = *self.by_name.entry(entry.name.clone()).or_insert(next);
        let route = route(slot);
        let spec = SlotSpec { entry, digest, policy, need, kv_memory_bytes, retired: false };
        match self.slots.get_mut(slot.0) {
            Some(place) => *place = spec,
            None => self.slots.push(spec),
        }
        route
    }

    /// As configured, else the snapshot's size and a quarter, which keys and values rarely fill.
    fn need(&self, entry: &ModelEntry, bytes: u64) -> Need {
        let index = |name: &String| self.slices.iter().position(|slice| slice == name);
        Need {
            bytes: entry.memory.unwrap_or(bytes.saturating_add(bytes / 4)),
            guessed: entry.memory.is_none(),
            slices: entry.slices.as_ref().map(|names| names.iter().filter_map(index).collect()),
        }
    }

    /// How models share the slices, where their names are slots.
    fn rules(&self, config: &Config) -> Rules {
        let slot = |name: &String| self.by_name.get(name).copied();
        let group = |group: &GroupEntry| Group {
            members: group.models.iter().filter_map(slot).collect(),
            together: group.together,
            alone: group.alone,
        };
        Rules {
            residence: config.residence,
            swaps_per_minute: config.swaps_per_minute,
            groups: config.groups.iter().map(group).collect(),
        }
    }
}

impl Settings {
    /// The models that somebody may use.
    pub fn cards(&self, caller: &Caller) -> Vec<ModelCard> {
        let cards = self.routes.iter().map(|route| &route.card);
        cards.filter(|card| caller.may_use(&card.id)).cloned().collect()
    }

    /// The model of this name; the only one if the request may leave the name out and does.
    ///
    /// # Errors
    /// 404, and 400 where a name is missing.
    pub fn route(&self, name: Option<&str>) -> Result<&Arc<Route>, ApiError> {
        let name = match (name, self.routes.as_slice()) {
            (Some(name), _) => name,
            (None, [only]) => return Ok(only),
            (None, _) => return Err(ApiError::field("model", "is required, since there is more than one model")),
        };
        self.by_name.get(name).ok_or_else(|| {
            let mut error = ApiError::model_not_found(name);
            error.message.push_str(" GET /v1/models lists those that do.");
            error
        })
    }
}

impl Route {
    /// What is counted with its requests. Thousands of models that nobody asks for need not have it.
    pub fn counts(&self, metrics: &Metrics) -> &Arc<ModelCounts> {
        self.counts.get_or_init(|| Arc::new(metrics.counts(&self.card.id)))
    }

    /// A request's body as the runtime is to read it: with the model's own name where an alias was `asked` for, and with its sampling where
    /// the request says nothing of it. `None`: as it is.
    pub fn own(&self, body: &[u8], asked: Option<&str>, sampled: bool) -> Option<Bytes> {
        let alias = asked.is_some_and(|asked| asked != self.card.id);
        if !(alias || sampled && !self.sampling.is_empty()) {
            return None;
        }
        // What has been parsed before is an object. Its values are not read again.
        let mut fields = serde_json::from_slice::<indexed::Fields>(body).ok()?;
        if alias {
            fields.0.retain(|(name, _)| name != "model");
            fields.0.extend(to_raw_value(&self.card.id).map(|name| ("model".to_owned(), name)));
        }
        if sampled {
            self.add_sampling(&mut fields);
        }
        serde_json::to_vec(&fields).ok().map(Bytes::from)
    }

    fn add_sampling(&self, fields: &mut indexed::Fields) {
        // A field that is null says nothing, too.
        let said = |name: &str| fields.0.iter().any(|(said, value)| said == name && value.get() != "null");
        let other = |name: &str| name == "max_tokens" && said("max_completion_tokens");
        let unsaid = |name: &str| !said(name) && !other(name);
        let missing: Vec<_> = self.sampling.iter().filter(|(name, _)| unsaid(name)).collect();
        fields.0.retain(|(name, _)| missing.iter().all(|(missing, _)| *missing != name));
        for (name, value) in missing {
            fields.0.extend(to_raw_value(value).map(|value| (name.clone(), value)));
        }
    }
}

/// An object whose fields stay in their order and as they were written.
mod indexed {
    use super::RawValue;
    use serde::{
        Deserialize, Deserializer, Serialize, Serializer,
        de::{MapAccess, Visitor},
    };

    pub struct Fields(pub Vec<(String, Box<RawValue>)>);

    impl<'de> Deserialize<'de> for Fields {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Read;
            impl<'de> Visitor<'de> for Read {
                type Value = Fields;

                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("an object")
                }

                fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                    let mut fields = Vec::new();
                    while let Some(field) = map.next_entry()? {
                        fields.push(field);
                    }
                    Ok(Fields(fields))
                }
            }
            deserializer.deserialize_map(Read)
        }
    }

    impl Serialize for Fields {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn settings(ledger: &mut Ledger, models: &[ModelEntry]) -> (Settings, Vec<SlotSpec>) {
        let seen = |entry: &ModelEntry| Seen {
            entry: entry.clone(),
            card: ModelCard::new(&entry.name, 0),
            digest: None,
            bytes: 100,
        };
        let config = Config { models: models.to_vec(), ..Config::default() };
        let (settings, slots, _) = ledger.enter(&config, models.iter().map(seen).collect(), Vec::new());
        (settings, slots)
    }

    #[test]
    fn names_keep_their_slots_and_what_is_gone_is_retired() {
        let mut ledger = Ledger::default();
        let (a, b) =
            (ModelEntry::new("a", "a"), ModelEntry { aliases: vec!["bee".into()], ..ModelEntry::new("b", "b") });
        let (first, _) = settings(&mut ledger, &[a, b.clone()]);
        assert_eq!(first.route(Some("bee")).unwrap().slot, SlotId(1));
        assert_eq!(first.route(None).unwrap_err().param.as_deref(), Some("model"));
        let (second, slots) = settings(&mut ledger, &[b, ModelEntry::new("c", "c")]);
        assert_eq!(second.route(Some("b")).unwrap().slot, SlotId(1));
        assert_eq!(second.route(Some("c")).unwrap().slot, SlotId(2));
        assert!(second.route(Some("a")).is_err());
        let retired: Vec<_> = slots.iter().map(|slot| (slot.retired, slot.policy.idle.is_zero())).collect();
        assert_eq!(retired, [(true, true), (false, false), (false, false)]);
        let (third, slots) = settings(&mut ledger, &[ModelEntry::new("a", "a2")]);
        assert_eq!((third.route(None).unwrap().slot, slots[0].retired), (SlotId(0), false));
    }

    #[test]
    fn a_models_sampling_stands_where_the_request_says_nothing() {
        let sampling = json!({"temperature": 0.5, "max_tokens": 9, "stop": ["x"]});
        let entry = ModelEntry { sampling: sampling.as_object().unwrap().clone(), ..ModelEntry::new("a", "a") };
        let (settings, _) = settings(&mut Ledger::default(), &[entry]);
        let merged = |body: &str| {
            let own = settings.route(None).unwrap().own(body.as_bytes(), None, true);
            own.map_or_else(|| body.to_owned(), |own| String::from_utf8(own.to_vec()).unwrap())
        };
        let all = r#"{"seed":1.50,"temperature":0.5,"max_tokens":9,"stop":["x"]}"#;
        assert_eq!(merged(r#"{"seed": 1.50}"#), all);
        assert_eq!(
            merged(r#"{"temperature":null,"max_tokens":1,"stop":"y"}"#),
            r#"{"max_tokens":1,"stop":"y","temperature":0.5}"#
        );
        assert_eq!(
            merged(r#"{"max_completion_tokens":3,"stop":[],"temperature":1}"#),
            r#"{"max_completion_tokens":3,"stop":[],"temperature":1}"#
        );
        assert_eq!(
            merged(r#"{"max_completion_tokens":null,"stop":"z","temperature":1}"#),
            r#"{"max_completion_tokens":null,"stop":"z","temperature":1,"max_tokens":9}"#
        );
        assert_eq!(merged("[]"), "[]");
        let route = settings.route(None).unwrap();
        let renamed = route.own(br#"{"model":"o","prompt": [1, 2]}"#, Some("o"), false);
        assert_eq!(renamed.unwrap(), r#"{"prompt":[1, 2],"model":"a"}"#);
    }
}
