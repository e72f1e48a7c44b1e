//! Traces of the whole command: a cold start and its answer by a real runtime, as a collector gets them.
#![allow(clippy::unwrap_used)]

mod support;

use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceRequest, trace::v1::Span};
use prost::Message;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use support::client;
use support::{Serve, golden, pilotlight};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

#[test]
fn a_runtime_without_a_socket_has_spans_and_nothing_that_was_said_is_in_them() {
    let (collector, messages) = collect();
    let model = format!("tiny={}", golden("llama3-tiny", "f32").display());
    let mut command = pilotlight();
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--model", &model]);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{collector}")).env("OTEL_SERVICE_NAME", "lighthouse");
    command.env("OTEL_TRACES_SAMPLER_ARG", "0");
    let mut server = Serve::spawn(command);
    let ask = |stream: bool, flags: &str| {
        let traceparent = format!("00-{TRACE}-b7ad6b7169203331-{flags}");
        let headers = [("content-type", "application/json"), ("traceparent", &*traceparent)];
        let body = json!({"model": "tiny", "prompt": "xyzzy", "max_tokens": 5, "stream": stream, "ignore_eos": true});
        let answer = client::open(server.api, "POST", "/v1/completions", &headers, body.to_string().as_bytes());
        let answer = answer.unwrap().finish().unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(!answer.text().contains(": pl "), "{}", answer.text());
    };
    ask(true, "01");
    ask(false, "01");
    ask(true, "00");
    server.terminate();
    assert!(server.wait().success());
    let bytes: Vec<Vec<u8>> = messages.try_iter().collect();
    for message in &bytes {
        assert!(message.windows(5).all(|five| five != b"xyzzy"), "a prompt is in a span");
    }
    let spans: Vec<Span> = bytes.iter().flat_map(|bytes| spans(bytes)).collect();
    let mut counts = BTreeMap::new();
    spans.iter().for_each(|span| *counts.entry(span.name.as_str()).or_insert(0) += 1);
    let twice =
        ["POST /v1/completions", "held", "ask", "text_completion tiny", "tokenize", "queue", "prefill", "decode"];
    let expected = twice.into_iter().map(|name| (name, 2)).chain([("launch", 1), ("restore", 1)]);
    assert_eq!(counts, expected.collect(), "a cold one and a hot one, and none of the third");
    for span in &spans {
        assert_eq!(hex(&span.trace_id), TRACE);
        let Some(parent) = spans.iter().find(|other| other.span_id == span.parent_span_id) else { continue };
        let within = parent.start_time_unix_nano <= span.start_time_unix_nano
            && span.start_time_unix_nano <= span.end_time_unix_nano
            && span.end_time_unix_nano <= parent.end_time_unix_nano;
        assert!(within, "{span:?} within {parent:?}");
    }
    // Something was computed, so it took its time.
    let took = |name: &str| {
        let named = spans.iter().filter(move |span| span.name == name);
        named.map(|span| span.end_time_unix_nano - span.start_time_unix_nano).collect::<Vec<_>>()
    };
    for name in ["restore", "prefill", "decode"] {
        assert!(took(name).iter().all(|nanoseconds| *nanoseconds > 0), "{name}: {:?}", took(name));
    }
}

fn spans(message: &[u8]) -> Vec<Span> {
    let message = ExportTraceServiceRequest::decode(message).unwrap();
    let scopes = message.resource_spans.into_iter().flat_map(|of_resource| of_resource.scope_spans);
    scopes.flat_map(|scope| scope.spans).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A collector that keeps what it is sent.
fn collect() -> (SocketAddr, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (told, messages) = channel();
    std::thread::spawn(move || listener.incoming().for_each(|stream| take(stream.unwrap(), &told)));
    (address, messages)
}

fn take(mut stream: TcpStream, told: &Sender<Vec<u8>>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut line, mut length) = (String::new(), 0);
    while reader.read_line(&mut line).unwrap() > 2 {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        line.clear();
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    told.send(body).unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").unwrap();
}
