//! The container contract of Knative Serving, against the real binary: each test's name has the contract's words.
//!
//! The image itself, built and run, is in `container_image.rs`; what only a manifest can say, in `knative.rs`.
#![allow(clippy::unwrap_used)]
mod support;

use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use support::client::{self, send};
use support::process::{children, run};
use support::server::JSON;
use support::{Serve, golden, pilotlight, until};

/// Ports that Knative's own containers bind in the same pod.
const KNATIVE_PORTS: [u16; 7] = [8012, 8013, 8112, 8022, 9090, 9091, 8008];

const PROBE: &[(&str, &str)] = &[("k-network-probe", "queue")];
const KUBELET: &[(&str, &str)] = &[("user-agent", "kube-probe/1.33")];

fn model() -> String {
    format!("tiny={}", golden("llama3-tiny", "f32").display())
}

/// As Knative starts us: only `PORT` says where to listen.
fn in_pod(port: u16) -> Command {
    let mut command = pilotlight();
    command.args(["serve", "--admin", "127.0.0.1:0", "--model", &model()]).env("PORT", port.to_string());
    command
}

/// A port that nobody listens on at the moment.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap().local_addr().unwrap().port()
}

fn tokens(n: u32) -> serde_json::Value {
    json!({ "model": "tiny", "prompt": [5, 6, 7], "max_tokens": n, "ignore_eos": true, "temperature": 0 })
}

fn asks_a_token(server: &Serve) -> serde_json::Value {
    let answer = server.post("/v1/completions", &tokens(1));
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()
}

/// No model was woken and nothing runs.
fn assert_asleep(server: &Serve) {
    let slot = server.slot("tiny");
    assert_eq!(slot["state"], "cold", "{slot}");
    assert_eq!(children(server.id()), [0_u32; 0], "a process was launched");
}

#[test]
fn line_1_listens_on_port_http_1_1_and_http_2_prior_knowledge_on_the_same_port() {
    let port = free_port();
    let server = Serve::spawn(in_pod(port));
    assert_eq!(server.api.port(), port);
    assert_eq!(server.get("/readyz").status, 200);
    assert_eq!(h2_status(server.api, "/readyz"), 200);
}

#[test]
fn line_1_exactly_one_port_is_open_to_the_pod_s_outside() {
    let server = Serve::spawn(in_pod(free_port()));
    asks_a_token(&server);
    let outside: Vec<SocketAddr> =
        listening(server.id()).into_iter().filter(|address| !address.ip().is_loopback()).collect();
    assert_eq!(outside.len(), 1, "{outside:?}");
    assert_eq!(outside[0].port(), server.api.port());
    let runtime = children(server.id());
    assert_eq!(runtime.len(), 1);
    assert_eq!(listening(runtime[0]), [], "a runtime listens nowhere");
}

#[test]
fn line_2_k_service_k_revision_k_configuration_appear_as_labels_in_logs_and_metrics() {
    let mut command = in_pod(free_port());
    command.env("K_SERVICE", "svc").env("K_REVISION", "svc-00007").env("K_CONFIGURATION", "conf");
    let server = Serve::spawn(command);
    asks_a_token(&server);
    let metrics = server.admin("/metrics").text();
    let samples: Vec<&str> = metrics.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(!samples.is_empty());
    for sample in samples {
        for label in ["service=\"svc\"", "revision=\"svc-00007\"", "configuration=\"conf\""] {
            assert!(sample.contains(label), "no {label} in {sample}");
        }
    }
    let labelled = |line: &str| ["svc", "svc-00007", "conf"].iter().all(|name| line.contains(&format!("\"{name}\"")));
    until("a log line with Knative's labels", || server.log().lines().any(labelled).then_some(()));
}

#[test]
fn line_3_never_binds_knative_s_own_ports() {
    for port in KNATIVE_PORTS {
        let mut command = in_pod(port);
        let (code, _, said) = run(command.stdin(Stdio::null()));
        assert_eq!(code, Some(64), "PORT={port}: {said}");
        assert!(said.contains(&port.to_string()), "{said}");
    }
    let server = Serve::start(&["--model", &model()]);
    let bound: Vec<u16> = listening(server.id()).iter().map(SocketAddr::port).collect();
    assert!(bound.iter().all(|port| !KNATIVE_PORTS.contains(port)), "{bound:?}");
}

#[test]
fn line_4_runs_as_any_non_root_uid_with_stdin_at_eof_and_home_missing() {
    for uid in [2020, 65532] {
        // A folder of its own: the build's may be closed to other users.
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let (binary, snapshot) = (folder.path().join("pilotlight"), folder.path().join("tiny.snapshot"));
        std::fs::copy(env!("CARGO_BIN_EXE_pilotlight"), &binary).unwrap();
        std::fs::copy(golden("llama3-tiny", "f32"), &snapshot).unwrap();
        let mut command = Command::new(&binary);
        command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--model"]);
        command.arg(format!("tiny={}", snapshot.display())).env_clear().current_dir("/");
        if rustix::process::getuid().is_root() {
            command.uid(uid).gid(uid);
        }
        let server = Serve::spawn(command);
        asks_a_token(&server);
    }
}

#[test]
fn line_5_readiness_is_an_http_get_on_the_same_port_that_never_waits_for_weights_and_live_and_ready_are_two_paths() {
    let server = Serve::spawn(in_pod(free_port()));
    for path in ["/readyz", "/livez"] {
        assert_eq!(server.get(path).status, 200, "{path}");
        assert_eq!(server.admin(path).status, 200, "{path} on the admin port");
    }
    assert_asleep(&server);
}

#[test]
fn line_6_queue_probes_and_kube_probe_agents_are_answered_at_once_are_not_traffic_and_never_wake_a_model() {
    let server = Serve::spawn(in_pod(free_port()));
    let before = requests_counted(&server);
    for path in ["/", "/healthz", "/v1/chat/completions", "/v1/completions"] {
        let probe = client::request(server.api, "GET", path, PROBE, b"").unwrap();
        assert_eq!((probe.status, probe.text().trim()), (200, "queue"), "{path}");
        assert_eq!(client::request(server.api, "GET", path, KUBELET, b"").unwrap().status, 200, "{path}");
    }
    let headers = [JSON, PROBE].concat();
    let body = tokens(1).to_string();
    let posted = client::request(server.api, "POST", "/v1/completions", &headers, body.as_bytes()).unwrap();
    assert_eq!(posted.status, 200);
    assert_eq!(requests_counted(&server), before);
    assert_asleep(&server);
}

#[test]
fn line_7_sigterm_fails_readiness_first_serves_what_runs_and_what_arrives_during_the_drain_then_exits_0() {
    let mut server = Serve::spawn(in_pod(free_port()));
    asks_a_token(&server);
    // A request whose body is still on its way keeps the drain open for as long as this test needs.
    let body = tokens(3).to_string();
    let (first, rest) = body.as_bytes().split_at(10);
    let length = body.len().to_string();
    let headers = [("content-type", "application/json"), ("content-length", length.as_str())];
    let mut slow = send_part(server.api, &headers, first);
    let mut running = server.open("/v1/completions", &stream_of(400));
    running.event().unwrap().expect("it runs");

    server.terminate();
    until("readiness fails", || (server.get("/readyz").status == 503).then_some(()));
    assert_eq!(server.get("/livez").status, 200, "a drain is no reason to be killed");
    let arrived = server.post("/v1/completions", &tokens(2));
    assert_eq!((arrived.status, arrived.json()["usage"]["completion_tokens"].as_u64()), (200, Some(2)));
    std::io::Write::write_all(&mut slow, rest).unwrap();
    assert_eq!(client::answer(slow).unwrap().finish().unwrap().status, 200);
    let events: Vec<String> = std::iter::from_fn(|| running.event().unwrap()).collect();
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn line_7_held_requests_finish_when_sigterm_comes_while_the_model_is_cold() {
    let mut server = Serve::spawn(in_pod(free_port()));
    let waiting = send(server.api, "POST", "/v1/completions", JSON, tokens(4).to_string().as_bytes()).unwrap();
    until("the request is held", || (server.slot("tiny")["state"] != "cold").then_some(()));
    server.terminate();
    let answer = client::answer(waiting).unwrap().finish().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["usage"]["completion_tokens"], 4);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn line_8_foreign_proxy_headers_do_no_harm_and_client_supplied_internal_headers_are_stripped() {
    let server = Serve::spawn(in_pod(free_port()));
    asks_a_token(&server);
    let forged = r#"{"cold":true,"held_ms":123456.0,"launch_ms":123456.0,"restore_ms":123456.0}"#;
    let headers = [
        ("host", "smollm2.team.example.com"),
        ("content-type", "application/json"),
        ("forwarded", "for=192.0.2.1;proto=https"),
        ("x-forwarded-for", "192.0.2.1"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("k-proxy-request", "activator"),
        ("knative-serving-revision", "other"),
        ("pilotlight-wake", forged),
    ];
    let answer = client::request(server.api, "POST", "/v1/completions", &headers, tokens(1).to_string().as_bytes());
    let answer = answer.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let timings = &answer.json()["timings"];
    assert_eq!(timings["cold"], false, "{timings}");
    assert!(timings["held_ms"].as_f64().unwrap() < 123_456.0, "{timings}");
}

fn stream_of(n: u32) -> serde_json::Value {
    let mut body = tokens(n);
    body["stream"] = true.into();
    body
}

/// A request's head and the first bytes of its body.
fn send_part(to: SocketAddr, headers: &[(&str, &str)], part: &[u8]) -> std::net::TcpStream {
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(support::PATIENCE)).unwrap();
    let mut head = format!("POST /v1/completions HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n");
    headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(b"\r\n").unwrap();
    stream.write_all(part).unwrap();
    stream
}

/// The sum of everything that counts requests.
fn requests_counted(server: &Serve) -> f64 {
    let metrics = server.admin("/metrics").text();
    let counters = metrics.lines().filter(|line| line.starts_with("pilotlight_requests_total"));
    counters.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// One GET over HTTP/2 with prior knowledge.
fn h2_status(to: SocketAddr, path: &str) -> u16 {
    use http_body_util::Empty;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let stream = TokioIo::new(tokio::net::TcpStream::connect(to).await.unwrap());
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        let request = hyper::Request::get(format!("http://{to}{path}")).body(Empty::<bytes::Bytes>::new()).unwrap();
        sender.send_request(request).await.unwrap().status().as_u16()
    })
}

/// The addresses on which a process listens, from the kernel's tables.
fn listening(id: u32) -> Vec<SocketAddr> {
    let descriptors = std::fs::read_dir(format!("/proc/{id}/fd")).unwrap().flatten();
    let links = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    let inodes: Vec<String> =
        links.filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect();
    ["tcp", "tcp6"]
        .iter()
        .flat_map(|table| {
            std::fs::read_to_string(format!("/proc/{id}/net/{table}"))
                .unwrap_or_default()
                .lines()
                .skip(1)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            const LISTEN: &str = "0A";
            (fields[3] == LISTEN && inodes.iter().any(|inode| inode == fields[9])).then(|| kernel_address(fields[1]))
        })
        .collect()
}

/// `0100007F:1F90`, in the machine's byte order; of IPv6 only whether it is the loopback address.
fn kernel_address(text: &str) -> SocketAddr {
    let (ip, port) = text.split_once(':').unwrap();
    let port = u16::from_str_radix(port, 16).unwrap();
    if ip.len() == 8 {
        let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).unwrap().to_ne_bytes());
        return (ip, port).into();
    }
    let loopback = ip == "00000000000000000000000001000000";
    let ip = if loopback { std::net::Ipv6Addr::LOCALHOST } else { std::net::Ipv6Addr::UNSPECIFIED };
    (ip, port).into()
}
