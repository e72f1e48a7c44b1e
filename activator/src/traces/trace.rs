//! One request's trace: its own span, and those of what happens to it.
//!
//! ```text
//! POST /v1/chat/completions      from its arrival to its answer's last byte
//! ├─ held                        until it is let through; one for each runtime that it is asked of
//! │  ├─ launch, restore          of a cold start, as far as it waited for them
//! └─ ask                         the runtime, to its answer's last byte; with an event at the first
//!    └─ chat MODEL               what the runtime says of itself
//!       └─ tokenize, queue, prefill, decode
//! ```
//!
//! **Invariant:** a span lies within its parent: all times are of one clock, the monotonic one since the request's arrival. RAII: a [`Step`]
//! that is dropped, for whatever reason, is over. Names of attributes are OpenTelemetry's (HTTP, GenAI) where it has one.

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, HeaderValue};
use opentelemetry::{
    Context, KeyValue, TraceId,
    trace::{SpanBuilder, SpanKind, Status, TraceContextExt, Tracer},
};
use opentelemetry_sdk::trace::SdkTracer;
use protocol::{
    steps::{Steps, TRACED_HEADER},
    usage::Used,
};

use super::context;
use crate::{audit::Line, hold::Grant};

/// Those of a path: the request's span, and the operation in GenAI's words, where it is one.
fn names(path: &'static str) -> (Cow<'static, str>, Option<&'static str>) {
    match path {
        "/v1/chat/completions" => ("POST /v1/chat/completions".into(), Some("chat")),
        "/v1/completions" => ("POST /v1/completions".into(), Some("text_completion")),
        "/v1/embeddings" => ("POST /v1/embeddings".into(), Some("embeddings")),
        other => (format!("POST {other}").into(), None),
    }
}

/// See the module.
#[derive(Debug)]
pub struct Trace {
    tracer: SdkTracer,
    /// With the request's own span.
    context: Context,
    /// The model was not there when it came.
    cold: OnceLock<bool>,
    operation: Option<&'static str>,
    arrived: Instant,
    /// The same for people's clocks.
    at: SystemTime,
}

impl Trace {
    /// Goes on with the client's trace, or begins one. Whether it is sampled is decided now.
    pub fn begin(tracer: SdkTracer, headers: &HeaderMap, path: &'static str, arrived: Instant) -> Self {
        let at = SystemTime::now().checked_sub(arrived.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH);
        let (name, operation) = names(path);
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Server).with_start_time(at);
        let span = tracer.build_with_context(builder, &context::parent(headers));
        Self { context: Context::new().with_span(span), tracer, cold: OnceLock::new(), operation, arrived, at }
    }

    /// For log lines.
    pub fn id(&self) -> TraceId {
        self.context.span().span_context().trace_id()
    }

    fn time(&self, at: Instant) -> SystemTime {
        self.at + at.saturating_duration_since(self.arrived)
    }

    /// A part of the request begins; `None` where the trace is not sampled.
    pub fn step(self: &Arc<Self>, name: &'static str) -> Option<Step> {
        let since = Instant::now();
        let is_sampled = self.context.span().is_recording();
        is_sampled.then(|| Step { context: self.child(&self.context, name.into(), since), trace: self.clone(), since })
    }

    fn child(&self, parent: &Context, name: Cow<'static, str>, since: Instant) -> Context {
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Internal).with_start_time(self.time(since));
        parent.with_span(self.tracer.build_with_context(builder, parent))
    }

    /// Says to a runtime whose child it is: that of `step`, where the trace is sampled.
    pub fn tell(&self, step: Option<&Step>, headers: &mut HeaderMap) {
        context::tell(step.map_or(&self.context, |step| &step.context), headers);
        if step.is_some() {
            headers.insert(TRACED_HEADER, HeaderValue::from_static("1"));
        }
    }

    /// The request is over, as this line has it.
    pub fn end(&self, line: &Line) {
        let span = self.context.span();
        if !span.is_recording() {
            return;
        }
        span.set_attributes([
            KeyValue::new("http.request.method", "POST"),
            KeyValue::new("http.route", line.path.clone()),
            KeyValue::new("http.response.status_code", i64::from(line.status)),
            KeyValue::new("pilotlight.answer", line.id.clone()),
            KeyValue::new("pilotlight.complete", line.complete),
        ]);
        if !line.tenant.is_empty() {
            span.set_attribute(KeyValue::new("pilotlight.tenant", line.tenant.clone()));
        }
        span.set_attributes(self.cold.get().map(|cold| KeyValue::new("pilotlight.cold", *cold)));
        let used = Used { prompt: small(line.prompt_tokens), completion: small(line.completion_tokens) };
        if !line.model.is_empty() {
            span.set_attributes(self.of_model(&line.model, used));
        }
        if line.status >= 500 {
            span.set_attribute(KeyValue::new("error.type", line.status.to_string()));
            span.set_status(Status::error(""));
        }
        span.end_with_timestamp(self.time(Instant::now()));
    }

    /// Attributes by GenAI's conventions.
    fn of_model(&self, model: &str, used: Used) -> impl Iterator<Item = KeyValue> {
        let operation = self.operation.map(|name| KeyValue::new("gen_ai.operation.name", name));
        let of_all = [
            KeyValue::new("gen_ai.provider.name", "pilotlight"),
            KeyValue::new("gen_ai.request.model", model.to_owned()),
            KeyValue::new("gen_ai.usage.input_tokens", i64::from(used.prompt)),
            KeyValue::new("gen_ai.usage.output_tokens", i64::from(used.completion)),
        ];
        of_all.into_iter().chain(operation)
    }
}

fn small(tokens: u64) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}

/// A part of a request, which is over when it is dropped.
#[derive(Debug)]
pub struct Step {
    trace: Arc<Trace>,
    context: Context,
    since: Instant,
}

impl Drop for Step {
    fn drop(&mut self) {
        self.context.span().end_with_timestamp(self.trace.time(Instant::now()));
    }
}

impl Step {
    /// It waited for this.
    pub fn granted(&self, grant: &Grant) {
        // Of a request that loses its runtime, what the first one took counts.
        let _ = self.trace.cold.set(grant.cold);
        if grant.cold {
            let times = &grant.times;
            self.part("launch", Some(times.spawned), times.launched);
            self.part("restore", times.restoring(), times.ready);
        }
    }

    /// What happened meanwhile, as far as it was within this step.
    fn part(&self, name: &'static str, from: Option<Instant>, to: Option<Instant>) {
        let (Some(from), Some(to)) = (from.map(|from| from.max(self.since)), to.map(|to| to.min(Instant::now())))
        else {
            return;
        };
        if from < to {
            let part = self.trace.child(&self.context, name.into(), from);
            part.span().end_with_timestamp(self.trace.time(to));
        }
    }

    /// The answer begins.
    pub fn first_token(&self) {
        let now = self.trace.time(Instant::now());
        self.context.span().add_event_with_timestamp("first token", now, Vec::new());
    }

    /// Nothing came of it.
    pub fn failed(&self, why: &'static str) {
        let span = self.context.span();
        span.set_attribute(KeyValue::new("error.type", why));
        span.set_status(Status::error(""));
    }

    /// What the runtime says of itself, and what its whole answer has used.
    pub fn told(&self, model: &str, steps: &Steps, used: Used) {
        let now = Instant::now();
        let at = |micros| self.since.checked_add(Duration::from_micros(micros)).map_or(now, |at| at.min(now));
        let trace = &self.trace;
        let name = format!("{} {model}", trace.operation.unwrap_or("generate"));
        let whole = trace.child(&self.context, name.into(), self.since);
        whole.span().set_attributes(trace.of_model(model, used));
        let mut from = self.since;
        for (name, until) in
            [("tokenize", steps.queued), ("queue", steps.begun), ("prefill", steps.first), ("decode", steps.last)]
        {
            let part = trace.child(&whole, name.into(), from);
            from = at(until);
            part.span().end_with_timestamp(trace.time(from));
        }
        whole.span().end_with_timestamp(trace.time(from));
    }
}
