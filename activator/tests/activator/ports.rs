//! Both ports: paths, limits, probes. Nothing here wakes a model.

use activator::KnativeLabels;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    client::{self, Answer},
    double::Start,
    house::{House, chat},
};

async fn send(house: &House, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    client::send(house.activator.api(), client::request(method, path, headers, body.to_owned())).await
}

async fn still_cold(house: &House) {
    assert_eq!(house.slot().await["state"], "cold");
    assert_eq!(house.files.lives(), 0);
}

#[tokio::test]
async fn models_are_listed_without_waking_any() {
    let house = House::new(&[Start::Ready]).await;
    let list = house.get("/v1/models").await.json().await;
    assert_eq!((&list["object"], &list["data"][0]["id"]), (&json!("list"), &json!("m")));
    assert_eq!(house.get("/v1/models/m").await.json().await, list["data"][0]);
    let message = house.get("/v1/models/x").await.error(404).await;
    assert!(message.contains("'x'") && message.contains("/v1/models"), "{message}");
    still_cold(&house).await;
}

#[tokio::test]
async fn wrong_requests_are_openai_errors_and_wake_nothing() {
    let house = House::new(&[Start::Ready]).await;
    let unknown = json!({"model": "x", "messages": [{"role": "user", "content": "hi"}]}).to_string();
    let wrong = json!({"model": "m", "messages": "hi"}).to_string();
    let cases: [(&str, &str, &str, u16, &str); 8] = [
        ("GET", "/nowhere", "", 404, "/nowhere"),
        ("GET", "/v1/chat/completions", "", 405, "GET"),
        ("POST", "/v1/models", "{}", 405, "POST"),
        ("POST", "/v1/chat/completions", "{", 400, ""),
        ("POST", "/v1/chat/completions", &wrong, 400, "messages"),
        ("POST", "/v1/chat/completions", &unknown, 404, "'x'"),
        ("POST", "/v1/completions", "{}", 400, "model"),
        ("POST", "/tokenize", "{}", 400, "prompt"),
    ];
    for (method, path, body, status, named) in cases {
        let message = send(&house, method, path, &[], body).await.error(status).await;
        assert!(message.contains(named), "{method} {path}: {message}");
    }
    still_cold(&house).await;
}

#[tokio::test]
async fn the_only_model_need_not_be_named_to_tokenize() {
    let house = House::new(&[Start::Ready]).await;
    let seen = send(&house, "POST", "/tokenize", &[], r#"{"prompt": "hi"}"#).await.json().await;
    assert_eq!(seen["path"], "/tokenize");
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_announced_or_not() {
    let house = House::with(&[Start::Ready], |_, config| config.body_bytes_max = 1000).await;
    let body = "x".repeat(1001);
    let message = send(&house, "POST", "/v1/chat/completions", &[], &body).await.error(413).await;
    assert!(message.contains("1000"), "{message}");
    let chunked = [("transfer-encoding", "chunked")];
    send(&house, "POST", "/v1/chat/completions", &chunked, &body).await.error(413).await;
    still_cold(&house).await;
}

#[tokio::test]
async fn probes_are_answered_at_once_never_wake_and_are_not_counted() {
    let house = House::new(&[Start::Ready]).await;
    let body = chat("", false).to_string();
    let queue = send(&house, "POST", "/v1/chat/completions", &[("K-Network-Probe", "queue")], &body).await;
    assert_eq!((queue.status, queue.text().await.as_str()), (StatusCode::OK, "queue"));
    for path in ["/", "/v1/chat/completions", "/healthz", "/readyz", "/livez"] {
        assert_eq!(send(&house, "GET", path, &[("user-agent", "kube-probe/1.31")], "").await.status, 200, "{path}");
    }
    for port in [house.activator.api(), house.activator.admin()] {
        for path in ["/readyz", "/livez"] {
            assert_eq!(client::get(port, path).await.status, 200);
        }
    }
    still_cold(&house).await;
    let metrics = house.admin("/metrics").await.text().await;
    assert!(!metrics.contains("pilotlight_requests_total{"), "{metrics}");
}

#[tokio::test]
async fn http2_with_prior_knowledge_is_spoken_on_the_same_port() {
    let house = House::new(&[Start::Ready]).await;
    let stream = tokio::net::TcpStream::connect(house.activator.api()).await.unwrap();
    let (mut requests, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://test.example/v1/chat/completions");
    let request = request.body(Full::new(bytes::Bytes::from(chat("", false).to_string()))).unwrap();
    let answer = requests.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    let seen: Value = serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap();
    assert_eq!((&seen["path"], &seen["headers"]["host"]), (&json!("/v1/chat/completions"), &json!("test.example")));
}

#[tokio::test]
async fn what_is_spoken_is_told_however_little_of_it_comes_at_once() {
    let house = House::new(&[Start::Ready]).await;
    let ask = async |first: &[u8], rest: &[u8]| {
        let mut stream = TcpStream::connect(house.activator.api()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream.write_all(first).await.unwrap();
        // The first part alone has been looked at once another connection has been answered.
        assert_eq!(house.get("/livez").await.status, 200);
        stream.write_all(rest).await.unwrap();
        let mut begins = [0; 9];
        stream.read_exact(&mut begins).await.unwrap();
        begins
    };
    let get = b"PUT /livez HTTP/1.1\r\nhost: a\r\n\r\n";
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    for at in 1..6 {
        assert_eq!(&ask(&get[..at], &get[at..]).await, b"HTTP/1.1 ", "after {at} bytes");
        // Its settings: a frame of type 4 on stream 0.
        let settings = ask(&preface[..at], &preface[at..]).await;
        assert_eq!((settings[3], &settings[5..]), (4, &[0; 4][..]), "after {at} bytes");
    }
}

#[tokio::test]
async fn a_connection_that_says_nothing_keeps_nobody_from_ending() {
    let house = House::new(&[Start::Ready]).await;
    let mut silent = TcpStream::connect(house.activator.api()).await.unwrap();
    assert_eq!(house.get("/livez").await.status, 200);
    tokio::time::timeout(Duration::from_secs(20), house.activator.drain()).await.expect("it waits for the silent one");
    assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);
}

#[tokio::test]
async fn headers_that_are_too_large_for_a_runtime_cost_only_their_own_request() {
    let house = House::new(&[Start::Ready]).await;
    let (large, body) = ("x".repeat(40_000), chat("", false).to_string());
    let refused = send(&house, "POST", "/v1/chat/completions", &[("x-large", &large)], &body).await;
    assert_ne!(refused.status, 200);
    assert_eq!(send(&house, "POST", "/v1/chat/completions", &[], &body).await.status, 200);
    assert_eq!(house.files.lives(), 1);
}

#[tokio::test]
async fn knatives_names_are_labels_of_every_metric() {
    let house = House::with(&[Start::Ready], |_, config| {
        config.knative = KnativeLabels { service: Some("s".into()), revision: Some("s-1".into()), configuration: None };
    })
    .await;
    house.get("/v1/models").await;
    let metrics = house.admin("/metrics").await.text().await;
    let counted = metrics.lines().find(|line| line.starts_with("pilotlight_requests_total")).unwrap();
    assert!(counted.contains("service=\"s\"") && counted.contains("revision=\"s-1\""), "{counted}");
    assert!(!counted.contains("configuration"), "{counted}");
}

#[tokio::test]
async fn the_admin_port_answers_wrong_paths_and_states_with_errors() {
    let house = House::new(&[Start::Ready]).await;
    for (path, status) in [("/v1/models", 404), ("/slots/cold/x", 404), ("/slots/warm/m", 400)] {
        house.admin(path).await.error(status).await;
    }
}
