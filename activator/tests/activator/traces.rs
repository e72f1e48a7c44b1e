//! Traces: a request through the real activator, and what a collector gets of it.

use std::{collections::BTreeMap, convert::Infallible, net::SocketAddr, time::Duration};

use activator::{Config, traces::TracesEntry};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value::Value as Of, trace::v1::Span,
};
use prost::Message;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};

use crate::{
    double::Start,
    house::{House, chat},
};

const PATIENCE: Duration = Duration::from_secs(60);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

/// Takes what is sent to it.
struct Collector {
    address: SocketAddr,
    messages: mpsc::UnboundedReceiver<ExportTraceServiceRequest>,
    seen: Vec<Span>,
}

impl Collector {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (told, messages) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let told = told.clone();
                let service = service_fn(move |request| take(request, told.clone()));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, messages, seen: Vec::new() }
    }

    fn entry(&self, sample: f64) -> Option<TracesEntry> {
        Some(TracesEntry { url: format!("http://{}/v1/traces", self.address), sample, service: "house".into() })
    }

    /// All spans so far, once there are so many.
    async fn spans(&mut self, least: usize) -> &[Span] {
        while self.seen.len() < least {
            let message = tokio::time::timeout(PATIENCE, self.messages.recv()).await.expect("no spans came").unwrap();
            self.take(message);
        }
        &self.seen
    }

    /// All that was sent by a process that has ended.
    fn rest(mut self) -> Vec<Span> {
        while let Ok(message) = self.messages.try_recv() {
            self.take(message);
        }
        self.seen
    }

    fn take(&mut self, message: ExportTraceServiceRequest) {
        for of_resource in message.resource_spans {
            let resource = attributes(&of_resource.resource.unwrap().attributes);
            assert_eq!(resource["service.name"], "house");
            self.seen.extend(of_resource.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
    }
}

async fn take(
    request: Request<Incoming>,
    told: mpsc::UnboundedSender<ExportTraceServiceRequest>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!((request.uri().path(), request.method().as_str()), ("/v1/traces", "POST"));
    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    told.send(ExportTraceServiceRequest::decode(body).unwrap()).unwrap();
    Ok(Response::new(Full::default()))
}

fn attributes(list: &[opentelemetry_proto::tonic::common::v1::KeyValue]) -> BTreeMap<String, Value> {
    let value = |value: &Of| match value {
        Of::StringValue(text) => json!(text),
        Of::BoolValue(is) => json!(is),
        Of::IntValue(number) => json!(number),
        other => panic!("{other:?}"),
    };
    list.iter().map(|pair| (pair.key.clone(), value(pair.value.as_ref().unwrap().value.as_ref().unwrap()))).collect()
}

fn named<'a>(spans: &'a [Span], name: &str) -> &'a Span {
    let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    let names: Vec<_> = spans.iter().map(|span| &span.name).collect();
    assert_eq!(found.len(), 1, "{name} of {names:?}");
    found[0]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// # Panics
/// Where the tree of names is another, or a span is not within its parent.
fn check_tree(spans: &[Span], root: &str, expected: &[(&str, &str)]) {
    assert_eq!(spans.len(), expected.len() + 1, "{:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>());
    let trace = &named(spans, root).trace_id;
    for (name, parent) in expected {
        let (span, parent) = (named(spans, name), named(spans, parent));
        assert_eq!((&span.parent_span_id, &span.trace_id), (&parent.span_id, trace), "{name}");
        let within = parent.start_time_unix_nano <= span.start_time_unix_nano
            && span.start_time_unix_nano <= span.end_time_unix_nano
            && span.end_time_unix_nano <= parent.end_time_unix_nano;
        assert!(within, "{span:?} within {parent:?}");
    }
}

const ROOT: &str = "POST /v1/chat/completions";

/// Below the root, of one that need not wait.
const HOT: [(&str, &str); 7] = [
    ("held", ROOT),
    ("ask", ROOT),
    ("chat m", "ask"),
    ("tokenize", "chat m"),
    ("queue", "chat m"),
    ("prefill", "chat m"),
    ("decode", "chat m"),
];

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

async fn house(collector: &Collector, sample: f64) -> House {
    House::with(&[Start::Ready], |_, config| config.traces = collector.entry(sample)).await
}

#[tokio::test]
async fn a_clients_trace_goes_on_through_a_cold_start_to_the_runtime() {
    let mut collector = Collector::new().await;
    // Nothing would be sampled, had the client not begun it.
    let house = house(&collector, 0.0).await;
    let headers = [("traceparent", &*traceparent("01")), ("tracestate", "vendor=1")];
    let text = house.ask_with(&headers, &chat("marked", true)).await.text().await;
    assert_eq!(text, "data: 1\n\ndata: 2\n\ndata: 3\n\ndata: [DONE]\n\n");
    let cold: Vec<_> = HOT.into_iter().chain([("launch", "held"), ("restore", "held")]).collect();
    let spans = collector.spans(cold.len() + 1).await;
    check_tree(spans, ROOT, &cold);
    let root = named(spans, ROOT);
    assert_eq!((hex(&root.trace_id), hex(&root.parent_span_id)), (TRACE.into(), PARENT.into()));
    assert_eq!(root.trace_state, "vendor=1");
    let said = attributes(&root.attributes);
    let expected = [
        ("gen_ai.operation.name", json!("chat")),
        ("gen_ai.request.model", json!("m")),
        ("gen_ai.usage.input_tokens", json!(7)),
        ("gen_ai.usage.output_tokens", json!(3)),
        ("http.response.status_code", json!(200)),
        ("http.route", json!("/v1/chat/completions")),
        ("pilotlight.cold", json!(true)),
        ("pilotlight.complete", json!(true)),
    ];
    for (name, value) in expected {
        assert_eq!(said.get(name), Some(&value), "{name} in {said:?}");
    }
    assert!(!said.contains_key("pilotlight.tenant"), "nobody had to show who they are");
    let runtime = attributes(&named(spans, "chat m").attributes);
    assert_eq!((&runtime["gen_ai.usage.input_tokens"], &runtime["gen_ai.usage.output_tokens"]), (&json!(7), &json!(3)));
    assert_eq!(named(spans, "ask").events[0].name, "first token");
    let metrics = house.admin("/metrics").await.text().await;
    assert!(metrics.contains("pilotlight_spans_dropped_total 0"), "{metrics}");
    assert!(metrics.contains("pilotlight_inter_token_seconds_count{model=\"m\"}"), "{metrics}");
}

#[tokio::test]
async fn the_runtime_is_told_whose_child_it_is_and_a_malformed_context_is_another_trace() {
    let mut collector = Collector::new().await;
    let house = house(&collector, 1.0).await;
    let headers = [("traceparent", "00-1-2-01"), ("tracestate", "vendor=1"), ("pilotlight-traced", "0")];
    let seen = house.ask_with(&headers, &chat("", false)).await.json().await;
    let spans = collector.spans(5).await;
    let (root, ask) = (named(spans, ROOT), named(spans, "ask"));
    assert!(root.parent_span_id.is_empty() && hex(&root.trace_id) != TRACE, "{root:?}");
    let said = format!("00-{}-{}-01", hex(&root.trace_id), hex(&ask.span_id));
    assert_eq!(seen["headers"]["traceparent"], said);
    assert_eq!((&seen["headers"]["tracestate"], &seen["headers"]["pilotlight-traced"]), (&Value::Null, &json!("1")));
}

#[tokio::test]
async fn a_whole_answer_says_its_steps_in_a_header_that_clients_do_not_see() {
    let mut collector = Collector::new().await;
    let house = house(&collector, 1.0).await;
    assert_eq!(house.ask(&chat("", false)).await.status, 200);
    collector.spans(5).await;
    let hot = house.ask(&chat("marked", false)).await;
    assert!(hot.headers.keys().all(|name| !name.as_str().starts_with("pilotlight-")), "{:?}", hot.headers);
    assert!(!hot.headers.contains_key("traceparent"));
    hot.text().await;
    let spans = &collector.spans(5 + HOT.len() + 1).await[5..];
    check_tree(spans, ROOT, &HOT);
    assert_eq!(attributes(&named(spans, ROOT).attributes)["pilotlight.cold"], json!(false));
}

#[tokio::test]
async fn what_is_not_sampled_is_not_sent_and_what_is_left_is_sent_at_the_end() {
    let collector = Collector::new().await;
    let house = house(&collector, 1.0).await;
    let seen = house.ask_with(&[("traceparent", &traceparent("00"))], &chat("", false)).await.json().await;
    let told = seen["headers"]["traceparent"].as_str().unwrap();
    assert!(told.starts_with(&format!("00-{TRACE}-")) && told.ends_with("-00"), "{told}");
    assert_eq!(seen["headers"]["pilotlight-traced"], Value::Null);
    house.ask(&chat("refuse", false)).await.error(400).await;
    house.activator.drain().await;
    let spans = collector.rest();
    check_tree(&spans, ROOT, &[("held", ROOT), ("ask", ROOT)]);
    let said = attributes(&named(&spans, ROOT).attributes);
    assert_eq!(said["http.response.status_code"], json!(400));
}

#[tokio::test]
async fn a_lost_runtime_is_a_failed_step_of_the_same_trace() {
    let mut collector = Collector::new().await;
    let house = house(&collector, 1.0).await;
    assert_eq!(house.ask(&chat("die", false)).await.status, 500, "it is given up after two deaths");
    let mut spans = collector.spans(1).await.to_vec();
    while !spans.iter().any(|span| span.name == ROOT) {
        spans = collector.spans(spans.len() + 1).await.to_vec();
    }
    let root = named(&spans, ROOT);
    assert!(spans.iter().all(|span| span.trace_id == root.trace_id));
    let asked: Vec<_> = spans.iter().filter(|span| span.name == "ask").collect();
    assert!(asked.len() >= 2, "{asked:?}");
    for ask in asked {
        assert_eq!(attributes(&ask.attributes)["error.type"], json!("died"));
    }
    assert_eq!(attributes(&root.attributes)["error.type"], json!("500"));
}

#[tokio::test]
async fn a_collector_that_is_not_there_costs_no_request_anything() {
    // Nobody listens there any more.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let entry = TracesEntry { url: format!("http://{gone}/v1/traces"), sample: 1.0, service: "house".into() };
    let house = House::with(&[Start::Ready], |_, config| config.traces = Some(entry)).await;
    for stream in [false, true, false] {
        assert_eq!(house.ask(&chat("", stream)).await.status, 200);
    }
    let dropped = async {
        loop {
            let metrics = house.admin("/metrics").await.text().await;
            let count = metrics.lines().find_map(|line| line.strip_prefix("pilotlight_spans_dropped_total "));
            if count.unwrap().parse::<u64>().unwrap() > 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, dropped).await.expect("nothing was counted as dropped");
    let began = std::time::Instant::now();
    house.activator.drain().await;
    assert!(began.elapsed() < Duration::from_secs(20), "the end is bounded");
}

#[tokio::test]
async fn without_a_collector_a_clients_context_passes_as_it_came() {
    let house = House::with(&[Start::Ready], |_, config: &mut Config| assert_eq!(config.traces, None)).await;
    let headers = [("traceparent", &*traceparent("01")), ("tracestate", "vendor=1")];
    let seen = house.ask_with(&headers, &chat("", false)).await.json().await;
    assert_eq!(
        (&seen["headers"]["traceparent"], &seen["headers"]["tracestate"]),
        (&json!(traceparent("01")), &json!("vendor=1"))
    );
    assert_eq!(seen["headers"]["pilotlight-traced"], Value::Null);
}
