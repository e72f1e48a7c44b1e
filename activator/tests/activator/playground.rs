//! The admin port's way to a model: open to its own page on this machine, and to nobody else.

use std::net::{Ipv4Addr, SocketAddr};

use activator::tenants::{TenantEntry, key::KeyHash};
use http::Request;
use http_body_util::Full;
use serde_json::json;

use crate::{
    client::{self, Answer},
    double::Start,
    house::{House, chat},
};

const PATH: &str = "/playground/v1/chat/completions";
const JSON: (&str, &str) = ("content-type", "application/json");

type Headers<'a> = &'a [(&'a str, &'a str)];

/// Asks with exactly these headers.
async fn ask(admin: SocketAddr, headers: Headers<'_>, body: &serde_json::Value) -> Answer {
    let request = headers.iter().fold(Request::post(PATH), |request, (name, value)| request.header(*name, *value));
    client::send(admin, request.body(Full::new(body.to_string().into())).unwrap()).await
}

#[tokio::test]
async fn the_page_s_own_requests_are_answered_and_counted_as_on_the_api_port() {
    let house = House::new(&[Start::Ready]).await;
    let admin = house.activator.admin();
    let (host, origin) = (admin.to_string(), format!("http://{admin}"));
    let body = chat("", false);
    let from_page = [JSON, ("host", &host), ("origin", &origin), ("pilotlight-wake", "mine")];
    let seen = ask(admin, &from_page, &body).await;
    assert_eq!(seen.status, 200);
    let seen = seen.json().await;
    assert_eq!((&seen["path"], &seen["body"]), (&json!("/v1/chat/completions"), &json!(body.to_string())));
    let wake = seen["headers"]["pilotlight-wake"].as_str().unwrap();
    assert!(wake.contains("\"cold\":true"), "{wake}");

    // From no page, and under the other name.
    let (by_name, kind) = (format!("localhost:{}", admin.port()), ("content-type", "Application/JSON; charset=utf-8"));
    assert_eq!(ask(admin, &[kind, ("host", &by_name)], &body).await.status, 200);
    // Checked as there.
    let unknown = json!({"model": "x", "messages": [{"role": "user", "content": "hi"}]});
    ask(admin, &[JSON, ("host", &host)], &unknown).await.error(404).await;
    house.admin(PATH).await.error(405).await;
    let metrics = house.admin("/metrics").await.text().await;
    assert!(metrics.contains("pilotlight_requests_total{model=\"m\",class=\"2xx\"} 2"), "{metrics}");
}

#[tokio::test]
async fn who_leaves_the_playground_stops_what_was_asked_there() {
    let house = House::new(&[Start::Ready]).await;
    let host = house.activator.admin().to_string();
    let mut stream = ask(house.activator.admin(), &[JSON, ("host", &host)], &chat("forever", true)).await;
    assert_eq!(stream.next().await.unwrap().unwrap(), "data: 1\n\n");
    house.until("in_flight", 1).await;
    drop(stream);
    house.until("in_flight", 0).await;
    house.files.read("launched").await;
    house.files.read("asked").await;
    house.files.read("dropped").await;
}

#[tokio::test]
async fn other_pages_other_names_and_other_types_are_refused_and_wake_nothing() {
    let house = House::new(&[Start::Ready]).await;
    let admin = house.activator.admin();
    let (host, origin, port) = (admin.to_string(), format!("http://{admin}"), admin.port());
    let api = format!("http://{}", house.activator.api());
    let named = format!("rebound.example:{port}");
    let (named_origin, other_name) = (format!("http://{named}"), format!("http://localhost:{port}"));
    let host = ("host", host.as_str());
    let cases: [(Headers<'_>, u16, &str); 10] = [
        (&[JSON, host, ("origin", "http://evil.example")], 403, "origin"),
        (&[JSON, host, ("origin", "null")], 403, "origin"),
        (&[JSON, host, ("origin", &api)], 403, "origin"),
        (&[JSON, host, ("origin", &other_name)], 403, "origin"),
        (&[JSON, host, ("origin", &origin), ("origin", "http://evil.example")], 403, "origin"),
        (&[JSON, ("host", &named), ("origin", &named_origin)], 403, "localhost"),
        (&[JSON, host, ("host", &named)], 403, "localhost"),
        (&[JSON], 403, "localhost"),
        (&[host, ("origin", &origin)], 400, "content-type"),
        (&[host, ("origin", &origin), ("content-type", "text/plain")], 400, "content-type"),
    ];
    for (headers, status, named) in cases {
        let message = ask(admin, headers, &chat("", false)).await.error(status).await;
        assert!(message.contains(named), "{headers:?}: {message}");
    }
    // A browser that asks first whether another page may.
    let preflight = client::request("OPTIONS", PATH, &[("origin", "http://evil.example")], "");
    let answer = client::send(admin, preflight).await;
    assert!(!answer.headers.contains_key("access-control-allow-origin"));
    answer.error(405).await;
    assert_eq!((house.slot().await["state"].clone(), house.files.lives()), (json!("cold"), 0));
}

#[tokio::test]
async fn an_admin_port_that_others_can_reach_wants_an_operators_key() {
    let ((key, hash), (tenants_key, tenants_hash)) = (KeyHash::new().unwrap(), KeyHash::new().unwrap());
    let house = House::with(&[Start::Ready], |_, config| {
        config.admin = (Ipv4Addr::UNSPECIFIED, 0).into();
        config.admin_keys = vec![hash];
        config.tenants = vec![TenantEntry { keys: vec![tenants_hash], ..TenantEntry::new("acme") }];
    })
    .await;
    let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, house.activator.admin().port()));
    let host = admin.to_string();
    let (operator, tenant) = (format!("Bearer {key}"), format!("Bearer {tenants_key}"));
    for headers in [&[JSON, ("host", host.as_str())][..], &[JSON, ("host", &host), ("authorization", &tenant)]] {
        let message = ask(admin, headers, &chat("", false)).await.error(401).await;
        assert!(message.contains("operators.keys"), "{message}");
    }
    let load = |headers: &[(&str, &str)]| {
        client::send(admin, client::request("POST", "/admin/load", headers, "{\"model\":\"m\"}"))
    };
    load(&[JSON]).await.error(401).await;
    assert_eq!(client::get(admin, "/").await.status, 200, "the page is there");
    assert_eq!(house.files.lives(), 0);
    assert_eq!(load(&[("authorization", &operator)]).await.status, 200);
    let seen = ask(admin, &[JSON, ("authorization", &operator)], &chat("", false)).await.json().await;
    assert_eq!(seen["headers"].get("authorization"), None);
}

#[tokio::test]
async fn on_this_machine_the_playground_asks_as_an_operator_or_as_the_tenant_whose_key_it_shows() {
    let (key, hash) = KeyHash::new().unwrap();
    let house = House::with(&[Start::Ready], |_, config| {
        config.tenants = vec![TenantEntry { keys: vec![hash], ..TenantEntry::new("acme") }];
    })
    .await;
    let admin = house.activator.admin();
    let (host, tenant) = (admin.to_string(), format!("Bearer {key}"));
    let scope = async |headers: Headers<'_>| {
        let seen = ask(admin, headers, &chat("", false)).await.json().await;
        seen["headers"].get("pilotlight-scope").is_some()
    };
    assert!(!scope(&[JSON, ("host", &host)]).await);
    assert!(scope(&[JSON, ("host", &host), ("authorization", &tenant)]).await);
    let wrong = ask(admin, &[JSON, ("host", &host), ("authorization", "Bearer pl_x")], &chat("", false)).await;
    wrong.error(401).await;
}
