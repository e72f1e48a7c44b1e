//! Traces by OpenTelemetry: where a request's time went, from its arrival to the runtime and back, sent to a collector (OTLP over HTTP).
//!
//! **Invariant:** nobody waits for a collector. Spans go through a bounded queue to a thread of their own; what finds no room, or no collector,
//! is dropped and counted. Nothing that was said is ever in a span: names, numbers and times alone. Without a collector's address there
//! is no queue, no thread and no span.
//!
//! Only who has been let in is traced ([`crate::account`]), so that strangers cannot fill the queue. A runtime has no socket that leads to a
//! collector: it says when it did what ([`protocol::steps`]), and its spans are made here.

mod context;
mod export;
mod trace;

use std::{sync::Arc, time::Duration, time::Instant};

use http::{HeaderMap, Uri};
use opentelemetry::{InstrumentationScope, trace::TracerProvider};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};

use crate::metrics::Metrics;
pub use trace::{Step, Trace};

/// How long the last spans may take when the process ends.
const FLUSH_MAX: Duration = Duration::from_secs(5);

/// Where traces go, and of how many requests there are some.
#[derive(Clone, Debug, PartialEq)]
pub struct TracesEntry {
    /// Where they are posted to: an http or https URL, path and all.
    pub url: String,
    /// The share of requests, from 0 to 1, of which a trace is begun here. Where a client has begun one, it decides.
    pub sample: f64,
    /// Who we are: `service.name`.
    pub service: String,
}

impl TracesEntry {
    /// What is wrong with it.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let web = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
        if !self.url.parse().is_ok_and(|uri| web(&uri)) {
            return Err("the endpoint must be an http or https URL, such as http://collector:4318");
        }
        if !(0.0..=1.0).contains(&self.sample) {
            return Err("sample must be from 0 to 1");
        }
        Ok(())
    }
}

/// Begins traces. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Traces {
    on: Option<On>,
}

#[derive(Clone, Debug)]
struct On {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
}

impl Traces {
    /// To the collector, where there is one. Nothing is sent yet, and nothing asked of it.
    ///
    /// # Errors
    /// The exporter cannot be made; for people.
    pub fn start(entry: Option<&TracesEntry>, metrics: &Metrics) -> Result<Self, String> {
        let Some(entry) = entry else { return Ok(Self::default()) };
        let processor = export::processor(&entry.url, metrics.spans_dropped.clone())?;
        let version = env!("CARGO_PKG_VERSION");
        let attribute = opentelemetry::KeyValue::new("service.version", version);
        let resource =
            Resource::builder_empty().with_service_name(entry.service.clone()).with_attribute(attribute).build();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(entry.sample))))
            .with_resource(resource)
            .build();
        let scope = InstrumentationScope::builder("pilotlight").with_version(version).build();
        Ok(Self { on: Some(On { tracer: provider.tracer_with_scope(scope), provider }) })
    }

    /// A request with these headers has been let in, which arrived then; `None` where there are no traces.
    pub fn begin(&self, headers: &HeaderMap, path: &'static str, arrived: Instant) -> Option<Arc<Trace>> {
        let on = self.on.as_ref()?;
        Some(Arc::new(Trace::begin(on.tracer.clone(), headers, path, arrived)))
    }

    /// Sends what is left, within a bound.
    pub async fn finish(self) {
        let Some(on) = self.on else { return };
        let sent = tokio::task::spawn_blocking(move || on.provider.shutdown_with_timeout(FLUSH_MAX)).await;
        if !matches!(sent, Ok(Ok(()))) {
            tracing::warn!("the last spans may not have reached the collector");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_and_a_share_is_one() {
        let of = |url: &str, sample| TracesEntry { url: url.into(), sample, service: "s".into() }.check().is_ok();
        assert!(of("http://127.0.0.1:4318/v1/traces", 0.1) && of("https://collector/v1/traces", 1.0));
        for url in ["", "collector:4318", "ftp://collector", "/v1/traces", "http://"] {
            assert!(!of(url, 0.1), "{url}");
        }
        assert!(!of("http://a", 1.1) && !of("http://a", -0.1) && !of("http://a", f64::NAN));
    }
}
