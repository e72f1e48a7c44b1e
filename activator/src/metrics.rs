//! What the activator tells about itself: each happening is one function here, which counts it and logs it.
//!
//! **Invariant:** label sets are closed: models and tenants of the configuration, phases, outcomes, status classes. No request's
//! words ever appear. What happens with every request is looked up once for each model and tenant ([`ModelCounts`], [`Classes`]).

mod counted;

use std::sync::{
    Arc,
    atomic::{AtomicI64, AtomicU64},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use protocol::control::Stats;

pub use self::counted::{Classes, ModelCounts};
use crate::{config::KnativeLabels, scaler::ColdStart, slot::Phase, tenants::Caller};

/// The label of requests that name no model we have, or are nobody's.
const NONE: &str = "";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Model {
    model: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InPhase {
    model: String,
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    model: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Class {
    model: String,
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Why {
    why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Start {
    model: String,
    start: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Billed {
    model: String,
    tenant: String,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfTenant {
    tenant: String,
    class: &'static str,
}

/// Every counter. Cheap to clone, and small: every request has some.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Families>);

impl std::ops::Deref for Metrics {
    type Target = Families;

    fn deref(&self) -> &Families {
        &self.0
    }
}

/// All that is counted.
#[derive(Debug)]
pub struct Families {
    registry: Registry,
    held: Family<Model, Gauge<i64, AtomicI64>>,
    in_flight: Family<Model, Gauge<i64, AtomicI64>>,
    state: Family<InPhase, Gauge<i64, AtomicI64>>,
    replicas: Family<Model, Gauge<i64, AtomicI64>>,
    waits_for_room: Family<Model, Gauge<i64, AtomicI64>>,
    evictions: Family<Model, Counter<u64, AtomicU64>>,
    cold_starts: Family<Outcome, Counter<u64, AtomicU64>>,
    launch: Family<Model, Histogram>,
    restore: Family<Model, Histogram>,
    requests: Family<Class, Counter<u64, AtomicU64>>,
    lost: Family<Outcome, Counter<u64, AtomicU64>>,
    refused: Family<Why, Counter<u64, AtomicU64>>,
    held_for: Family<Model, Histogram>,
    first_token: Family<Start, Histogram>,
    inter_token: Family<Model, Histogram>,
    tokens: Family<Billed, Counter<u64, AtomicU64>>,
    tenant_requests: Family<OfTenant, Counter<u64, AtomicU64>>,
    sequences: Family<InPhase, Gauge<i64, AtomicI64>>,
    kv_blocks: Family<InPhase, Gauge<i64, AtomicI64>>,
    preempted: Family<Model, Counter<u64, AtomicU64>>,
    reused: Family<Model, Counter<u64, AtomicU64>>,
    guessed: Family<Outcome, Counter<u64, AtomicU64>>,
    /// Requests that name no model we have.
    unrouted: Classes,
    /// Requests that are no tenant's.
    anonymous: Classes,
    /// Of traces, those that no collector gets.
    pub spans_dropped: Counter<u64, AtomicU64>,
}

/// One slot's gauges.
#[derive(Clone, Debug)]
pub struct OfSlot {
    held: Gauge<i64, AtomicI64>,
    in_flight: Gauge<i64, AtomicI64>,
    replicas: Gauge<i64, AtomicI64>,
    waits_for_room: Gauge<i64, AtomicI64>,
    state: [Gauge<i64, AtomicI64>; Phase::ALL.len()],
}

impl OfSlot {
    /// The slot was like that, and is now like this: its phase, and how many are held, are in flight, answer, and wait for room.
    pub fn tell(&self, before: (Phase, [usize; 4]), now: (Phase, [usize; 4])) {
        let gauges = [&self.held, &self.in_flight, &self.replicas, &self.waits_for_room];
        for (gauge, (before, now)) in gauges.into_iter().zip(before.1.into_iter().zip(now.1)) {
            if before != now {
                gauge.set(now as i64);
            }
        }
        if before.0 != now.0 {
            self.phase(now.0);
        }
    }

    fn phase(&self, phase: Phase) {
        for (gauge, of) in self.state.iter().zip(Phase::ALL) {
            gauge.set(i64::from(of == phase));
        }
    }
}

/// 1 ms to about 33 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 16))
}

/// 0.5 ms to about 4 s.
fn token_seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0005, 2.0, 14))
}

impl Metrics {
    /// All at zero, with Knative's names as labels where they are set.
    pub fn new(knative: &KnativeLabels) -> Self {
        let labels =
            [("service", &knative.service), ("revision", &knative.revision), ("configuration", &knative.configuration)];
        let labels = labels.into_iter().filter_map(|(name, value)| Some((name.into(), value.clone()?.into())));
        let mut registry = Registry::with_prefix_and_labels("pilotlight", labels);
        let mut metrics = Families {
            registry: Registry::default(),
            held: Family::default(),
            in_flight: Family::default(),
            state: Family::default(),
            replicas: Family::default(),
            waits_for_room: Family::default(),
            evictions: Family::default(),
            cold_starts: Family::default(),
            launch: Family::new_with_constructor(seconds),
            restore: Family::new_with_constructor(seconds),
            requests: Family::default(),
            lost: Family::default(),
            refused: Family::default(),
            held_for: Family::new_with_constructor(seconds),
            first_token: Family::new_with_constructor(seconds),
            inter_token: Family::new_with_constructor(token_seconds),
            tokens: Family::default(),
            tenant_requests: Family::default(),
            sequences: Family::default(),
            kv_blocks: Family::default(),
            preempted: Family::default(),
            reused: Family::default(),
            guessed: Family::default(),
            unrouted: Classes::default(),
            anonymous: Classes::default(),
            spans_dropped: Counter::default(),
        };
        registry.register("held", "Requests that wait for a model's runtime", metrics.held.clone());
        registry.register("in_flight", "Requests being answered by a model's runtime", metrics.in_flight.clone());
        registry.register("slot_state", "1 for the state that the slot is in", metrics.state.clone());
        registry.register("replicas", "Runtimes of a model that answer", metrics.replicas.clone());
        let waits = "Runtimes that a model is to have and that wait for room on a slice";
        registry.register("waits_for_room", waits, metrics.waits_for_room.clone());
        registry.register("evictions", "Runtimes that had to go for another model's", metrics.evictions.clone());
        registry.register("cold_starts", "Launches, by how they ended", metrics.cold_starts.clone());
        registry.register("launch_seconds", "From a runtime's start to its being launched", metrics.launch.clone());
        registry.register("restore_seconds", "From launched to ready for a first token", metrics.restore.clone());
        registry.register("requests", "Requests answered, by class of status", metrics.requests.clone());
        let lost = "Requests that lost their runtime while it worked on them, by why: killed or broken, told to end, given up after two deaths";
        registry.register("requests_lost", lost, metrics.lost.clone());
        metrics.register_callers(&mut registry);
        metrics.register_engine(&mut registry);
        metrics.registry = registry;
        Self(Arc::new(metrics))
    }
}

impl Families {
    /// Who asks, and how long they wait.
    fn register_callers(&self, registry: &mut Registry) {
        let refused = "Requests turned away before they were read: who asks is unknown, or over quota";
        registry.register("refused", refused, self.refused.clone());
        // So that the first is seen as a change.
        for why in ["unknown", "over_quota"] {
            self.refused.get_or_create(&Why { why }).inc_by(0);
        }
        registry.register("held_seconds", "From a request's arrival to its being let through", self.held_for.clone());
        let first = "From a request's arrival to the first byte of its answer, of whole answers to all of it, by how its model was found";
        registry.register("first_token_seconds", first, self.first_token.clone());
        let between = "Of streams, the time between two events of a choice for each token between them";
        registry.register("inter_token_seconds", between, self.inter_token.clone());
        registry.register("tokens", "Tokens of prompts and of answers, by who is billed", self.tokens.clone());
        let requests = "Requests that were let in, by tenant and class of status";
        registry.register("tenant_requests", requests, self.tenant_requests.clone());
        let dropped = "Spans of traces that no collector got: it did not take them, or not fast enough";
        registry.register("spans_dropped", dropped, self.spans_dropped.clone());
    }

    /// What runtimes tell of their engines.
    fn register_engine(&self, registry: &mut Registry) {
        registry.register("sequences", "Generations in a model's engine, running or waiting", self.sequences.clone());
        let blocks = "Blocks of KV memory: in use, idle (known to the prefix cache), and in all";
        registry.register("kv_blocks", blocks, self.kv_blocks.clone());
        let preempted = "Generations that lost their KV blocks to older ones and were computed again";
        registry.register("preempted", preempted, self.preempted.clone());
        registry.register("prefix_reused_tokens", "Tokens that the prefix cache knew", self.reused.clone());
        registry.register("guessed_tokens", "Tokens guessed by speculation, by outcome", self.guessed.clone());
    }
}

impl Metrics {
    /// A model that is served: what it may count stands at zero from now on, so that the first of each is seen as a change. Histograms, which
    /// thousands of cold models need not have, begin with what first happens to it.
    pub fn model(&self, model: &str) {
        let label = Model { model: model.to_owned() };
        for phase in Phase::ALL {
            let label = InPhase { model: model.to_owned(), state: phase.name() };
            self.state.get_or_create(&label).set(i64::from(phase == Phase::Cold));
        }
        self.held.get_or_create(&label).set(0);
        self.in_flight.get_or_create(&label).set(0);
        let zero = |counters: &Family<Outcome, Counter<u64, AtomicU64>>, outcome| {
            counters.get_or_create(&Outcome { model: model.to_owned(), outcome }).inc_by(0);
        };
        ["ready", "failed"].into_iter().for_each(|outcome| zero(&self.cold_starts, outcome));
        ["died", "interrupted", "given_up"].into_iter().for_each(|outcome| zero(&self.lost, outcome));
    }

    /// A model's engines now stand like this, together.
    pub fn engines<'a>(&self, model: &str, engines: impl Iterator<Item = &'a Stats>) {
        let mut sum = Stats::default();
        for engine in engines {
            sum.running += engine.running;
            sum.waiting += engine.waiting;
            sum.kv_blocks_used += engine.kv_blocks_used;
            sum.kv_blocks_idle += engine.kv_blocks_idle;
            sum.kv_blocks_total += engine.kv_blocks_total;
        }
        let gauge = |family: &Family<InPhase, Gauge<i64, AtomicI64>>, state, value: u32| {
            family.get_or_create(&InPhase { model: model.to_owned(), state }).set(i64::from(value));
        };
        gauge(&self.sequences, "running", sum.running);
        gauge(&self.sequences, "waiting", sum.waiting);
        gauge(&self.kv_blocks, "used", sum.kv_blocks_used);
        gauge(&self.kv_blocks, "idle", sum.kv_blocks_idle);
        gauge(&self.kv_blocks, "total", sum.kv_blocks_total);
    }

    /// One of a model's engines has counted so far; `before` is what it said last.
    pub fn engine_counted(&self, model: &str, before: &Stats, now: &Stats) {
        let label = Model { model: model.to_owned() };
        self.preempted.get_or_create(&label).inc_by(now.preempted.saturating_sub(before.preempted));
        self.reused.get_or_create(&label).inc_by(now.reused_tokens.saturating_sub(before.reused_tokens));
        let guessed = now.guessed.saturating_sub(before.guessed);
        let right = now.guessed_right.saturating_sub(before.guessed_right);
        let counter = |outcome| self.guessed.get_or_create(&Outcome { model: model.to_owned(), outcome }).clone();
        counter("right").inc_by(right);
        counter("wrong").inc_by(guessed.saturating_sub(right));
    }

    /// In Prometheus' (OpenMetrics) text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("a String takes everything");
        text
    }

    /// What is told of one slot, looked up once: it changes with every request. Thousands of models that nobody asks for need not have it.
    pub fn of_slot(&self, model: &str) -> OfSlot {
        let label = Model { model: model.to_owned() };
        self.evictions.get_or_create(&label).inc_by(0);
        drop(self.inter_token.get_or_create(&label));
        let in_phase = |phase: Phase| InPhase { model: model.to_owned(), state: phase.name() };
        OfSlot {
            held: self.held.get_or_create(&label).clone(),
            in_flight: self.in_flight.get_or_create(&label).clone(),
            replicas: self.replicas.get_or_create(&label).clone(),
            waits_for_room: self.waits_for_room.get_or_create(&label).clone(),
            state: Phase::ALL.map(|phase| self.state.get_or_create(&in_phase(phase)).clone()),
        }
    }

    /// One of its runtimes has to go for another model's.
    pub fn evicted(&self, model: &str) {
        tracing::info!(model, "makes room for another model");
        self.evictions.get_or_create(&Model { model: model.to_owned() }).inc();
    }

    /// A runtime became ready.
    pub fn cold_start_ready(&self, model: &str, took: &ColdStart) {
        tracing::info!(
            model,
            standby = took.standby,
            launch_ms = took.launch_ms,
            restore_ms = took.restore_ms,
            "ready for a first token"
        );
        let label = Model { model: model.to_owned() };
        self.cold_starts.get_or_create(&Outcome { model: model.to_owned(), outcome: "ready" }).inc();
        self.launch.get_or_create(&label).observe(took.launch_ms / 1e3);
        self.restore.get_or_create(&label).observe(took.restore_ms / 1e3);
    }

    /// A runtime ended before it was ready, or could not be started.
    pub fn cold_start_failed(&self, model: &str, why: &str) {
        tracing::warn!(model, why, "the model could not be started");
        self.cold_starts.get_or_create(&Outcome { model: model.to_owned(), outcome: "failed" }).inc();
    }

    /// A request lost its runtime: `died`, `interrupted`, or `given_up`, which ends it. Clients see nothing of the first two.
    pub fn lost(&self, model: &str, outcome: &'static str) {
        self.lost.get_or_create(&Outcome { model: model.to_owned(), outcome }).inc();
    }

    /// A request was turned away before it was read: `unknown`, `over_quota`.
    pub fn refused(&self, why: &'static str) {
        self.refused.get_or_create(&Why { why }).inc();
    }

    /// What is counted with every request for one model.
    pub fn counts(&self, model: &str) -> ModelCounts {
        ModelCounts::new(self.clone(), model)
    }

    /// A request that was let in is over.
    pub fn answered(&self, caller: &Caller, status: u16) {
        let (classes, tenant) = match &caller.tenant {
            None => (&self.anonymous, NONE),
            Some(tenant) => (&tenant.answered, tenant.entry.name.as_str()),
        };
        let find = |class| self.tenant_requests.get_or_create_owned(&OfTenant { tenant: tenant.to_owned(), class });
        classes.of(status, find).inc();
    }

    /// A request that names no model we have was answered.
    pub fn unrouted(&self, status: http::StatusCode) {
        let find = |class| self.requests.get_or_create_owned(&Class { model: NONE.to_owned(), class });
        self.unrouted.of(status.as_u16(), find).inc();
    }
}
