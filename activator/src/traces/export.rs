//! The way of spans to the collector: a bounded queue, a thread, and a plain HTTP client.
//!
//! **Invariant:** whoever ends a span waits for nothing. A span is sent, or counted as dropped: where the queue is full, or where a batch
//! could not be delivered within [`SEND_MAX`], tries included.
//!
//! The libraries read the standard's further variables themselves, such as `OTEL_EXPORTER_OTLP_HEADERS`.

use std::{
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use opentelemetry::Context;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{Protocol, RetryPolicy, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor},
};
use prometheus_client::metrics::counter::Counter;

/// Spans that wait to be sent, those under way included: some 4 MB.
const QUEUE_MAX: usize = 4096;
/// Spans of one message.
const BATCH_MAX: usize = 512;
/// The longest that a span waits where few come.
const SEND_EVERY: Duration = Duration::from_secs(1);
/// How long a batch may take.
const SEND_MAX: Duration = Duration::from_secs(5);
/// How long one try may.
const TRY_MAX: Duration = Duration::from_secs(2);
/// What is read of a collector's answer.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

/// Sends spans there, from a thread of its own.
pub fn processor(url: &str, dropped: Counter) -> Result<impl SpanProcessor + 'static, String> {
    let waiting = Arc::new(AtomicUsize::new(0));
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(Client::new())
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(url)
        .with_timeout(SEND_MAX)
        .with_retry_policy(RetryPolicy::recommended())
        .build()
        .map_err(|error| format!("traces cannot be sent: {error}"))?;
    let exporter = Counting { exporter, waiting: waiting.clone(), dropped: dropped.clone() };
    let config = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE_MAX)
        .with_max_export_batch_size(BATCH_MAX)
        .with_scheduled_delay(SEND_EVERY)
        .build();
    let batches = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
    Ok(Bounded { batches, waiting, dropped })
}

/// Lets no more spans in than the queue has room for, so that what it would drop without a word is counted.
#[derive(Debug)]
struct Bounded {
    batches: BatchSpanProcessor,
    waiting: Arc<AtomicUsize>,
    dropped: Counter,
}

impl SpanProcessor for Bounded {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= QUEUE_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.dropped.inc();
            return;
        }
        self.batches.on_end(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.batches.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.batches.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.batches.set_resource(resource);
    }
}

/// Counts what leaves the queue, and what of it arrives nowhere.
#[derive(Debug)]
struct Counting {
    exporter: opentelemetry_otlp::SpanExporter,
    waiting: Arc<AtomicUsize>,
    dropped: Counter,
}

impl SpanExporter for Counting {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let sent = self.exporter.export(batch).await;
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        if sent.is_err() {
            self.dropped.inc_by(spans as u64);
        }
        sent
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.exporter.shutdown()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

/// Posts, and waits for the answer, on the queue's own thread.
#[derive(Debug)]
struct Client {
    agent: ureq::Agent,
    /// It was told in the log that the collector does not take spans.
    failing: AtomicBool,
}

impl Client {
    fn new() -> Self {
        Self { agent: ureq::AgentBuilder::new().timeout(TRY_MAX).redirects(0).build(), failing: AtomicBool::new(false) }
    }

    fn post(&self, request: &Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut post = self.agent.post(&request.uri().to_string());
        for (name, value) in request.headers() {
            post = post.set(name.as_str(), value.to_str()?);
        }
        let answer = match post.send_bytes(request.body()) {
            Ok(answer) | Err(ureq::Error::Status(_, answer)) => answer,
            Err(error) => return Err(error.into()),
        };
        let mut response = Response::builder().status(answer.status());
        if let Some(later) = answer.header("retry-after") {
            response = response.header("retry-after", later);
        }
        let mut body = Vec::new();
        answer.into_reader().take(ANSWER_BYTES_MAX).read_to_end(&mut body)?;
        Ok(response.body(body.into())?)
    }

    /// Once when it begins to fail, and once when it works again.
    fn tell(&self, answer: &Result<Response<Bytes>, HttpError>) {
        let why = match answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(answer.status().to_string()),
            Err(error) => Some(error.to_string()),
        };
        match (self.failing.swap(why.is_some(), Ordering::Relaxed), why) {
            (false, Some(why)) => {
                tracing::warn!(why, "the collector of traces takes no spans; they are dropped until it does")
            }
            (true, None) => tracing::info!("the collector of traces takes spans again"),
            (false, None) | (true, Some(_)) => {}
        }
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.post(&request);
        self.tell(&answer);
        answer
    }
}
