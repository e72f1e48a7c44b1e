//! Who asks, what they may, and what is written down of it.

use std::{sync::Arc, time::Duration};

use activator::{
    Activator, Config, ModelEntry, audit,
    tenants::{TenantEntry, jwt::IssuerEntry, jwt::KeySource, key::KeyHash, quota::Limits},
};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use crate::{
    client::{self, Answer},
    double::Start,
    house::{Files, House, chat, open},
};

/// A tenant and its key.
fn tenant(name: &str) -> (TenantEntry, String) {
    let (key, hash) = KeyHash::new().unwrap();
    (TenantEntry { keys: vec![hash], ..TenantEntry::new(name) }, format!("Bearer {key}"))
}

async fn get_with(house: &House, path: &str, authorization: &str) -> Answer {
    let request = client::request("GET", path, &[("authorization", authorization)], "");
    client::send(house.activator.api(), request).await
}

#[tokio::test]
async fn who_is_not_known_wakes_nothing_and_who_is_gets_an_answer_without_its_key_going_further() {
    let (acme, key) = tenant("acme");
    let house = House::with(&[Start::Ready], |_, config| config.tenants = vec![acme]).await;
    let other = format!("Bearer {}", KeyHash::new().unwrap().0);
    for headers in [
        &[][..],
        &[("authorization", other.as_str())],
        &[("authorization", "Bearer none")],
        &[("authorization", "pl_")],
    ] {
        let message = house.ask_with(headers, &chat("", false)).await.error(401).await;
        assert!(message.contains("Authorization: Bearer"), "{message}");
    }
    assert!(house.get("/v1/models").await.error(401).await.contains("required"));
    assert_eq!((house.slot().await["state"].clone(), house.files.lives()), (json!("cold"), 0), "nothing has changed");
    assert_eq!(house.get("/livez").await.status, 200, "probes show nothing");

    let seen = house.ask_with(&[("authorization", &key)], &chat("", false)).await.json().await;
    assert_eq!(seen["headers"].get("authorization"), None);
    assert_eq!(seen["headers"]["pilotlight-scope"].as_str().map(str::len), Some(32));
    assert_eq!(get_with(&house, "/v1/models", &key).await.json().await["data"][0]["id"], "m");
    let metrics = house.admin("/metrics").await.text().await;
    assert!(metrics.contains("pilotlight_refused_total{why=\"unknown\"} 5"), "{metrics}");
    assert!(metrics.contains("pilotlight_tenant_requests_total{tenant=\"acme\",class=\"2xx\"} 1"), "{metrics}");
}

#[tokio::test]
async fn scopes_are_the_tenants_own() {
    let ((acme, acme_key), (umbrella, umbrella_key)) = (tenant("acme"), tenant("umbrella"));
    let house = House::with(&[Start::Ready], |_, config| config.tenants = vec![acme, umbrella]).await;
    let scope = async |key: &str| {
        let headers = [("authorization", key), ("pilotlight-scope", "00000000000000000000000000000000")];
        house.ask_with(&headers, &chat("", false)).await.json().await["headers"]["pilotlight-scope"].clone()
    };
    let (one, other) = (scope(&acme_key).await, scope(&umbrella_key).await);
    assert_ne!(one, other);
    assert_eq!(scope(&acme_key).await, one);
}

#[tokio::test]
async fn a_tenant_sees_and_uses_its_own_models_alone() {
    let ((mut acme, key), (all, key_of_all)) = (tenant("acme"), tenant("all"));
    acme.models = Some(vec!["other".into()]);
    let house = House::with(&[Start::Ready], |_, config| {
        let other =
            ModelEntry { aliases: vec!["o".into()], ..ModelEntry::new("other", config.models[0].snapshot.clone()) };
        config.models.push(other);
        config.tenants = vec![acme, all];
    })
    .await;
    let message = house.ask_with(&[("authorization", &key)], &chat("", false)).await.error(403).await;
    assert!(message.contains("'acme'") && message.contains("'m'"), "{message}");
    assert_eq!(get_with(&house, "/v1/models/m", &key).await.status, 403);
    assert_eq!(get_with(&house, "/v1/models/o", &key).await.json().await["id"], "other");
    let listed = get_with(&house, "/v1/models", &key).await.json().await;
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(1), "{listed}");
    let listed = get_with(&house, "/v1/models", &key_of_all).await.json().await;
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(2), "{listed}");
    assert_eq!(house.files.lives(), 0);
    let mut by_alias = chat("", false);
    by_alias["model"] = "o".into();
    assert_eq!(house.ask_with(&[("authorization", &key)], &by_alias).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenants_large_bodies_fill_its_own_part_of_the_memory_and_keep_nobody_else_out() {
    let ((small, key), (mut large, other)) = (tenant("small"), tenant("large"));
    // A part of less than one body: then it is one body.
    large.weight = 10_000;
    let house = House::with(&[Start::Ready], |_, config| {
        (config.tenants, config.body_bytes_max) = (vec![small, large], 1 << 20);
    })
    .await;
    let of_bytes = |bytes: usize, user: &str, stream| {
        let mut asked = chat(user, stream);
        asked["messages"][0]["content"] = "x".repeat(bytes).into();
        asked
    };
    let ask = async |key: &str, asked: &Value| house.ask_with(&[("authorization", key)], asked).await;
    let running = ask(&key, &of_bytes(700 << 10, "forever", true)).await;
    assert_eq!(running.status, 200);
    for _ in 0..2 {
        let refused = ask(&key, &of_bytes(400 << 10, "", false)).await;
        assert_eq!(refused.headers["retry-after"], "1");
        let message = refused.error(429).await;
        assert!(message.contains("'small'") && message.contains("its share"), "{message}");
    }
    assert_eq!(ask(&key, &of_bytes(200 << 10, "", false)).await.status, 200, "what fits is answered");
    assert_eq!(ask(&other, &of_bytes(1000 << 10, "", false)).await.status, 200, "the others' part is theirs");
    drop(running);
    house.until("in_flight", 0).await;
    let again = async { while ask(&key, &of_bytes(1000 << 10, "", false)).await.status != 200 {} };
    tokio::time::timeout(Duration::from_secs(20), again).await.expect("its part was never free again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_its_bounds_a_tenant_is_told_when_to_come_back_and_no_slot_hears_of_it() {
    let ((mut acme, key), (mut umbrella, second)) = (tenant("acme"), tenant("umbrella"));
    acme.limits = Limits { concurrency: Some(1), ..Limits::default() };
    umbrella.limits = Limits { requests_per_minute: Some(2), ..Limits::default() };
    let files = Files::new();
    let gate = files.gate("gate");
    files.write(&files.script(&[Start::Gate(gate.clone())]));
    let config = Config { tenants: vec![acme, umbrella], ..files.config() };
    let house = Arc::new(House { activator: Activator::start(config).await.unwrap(), files });
    let held = {
        let (house, key) = (house.clone(), key.clone());
        tokio::spawn(async move { house.ask_with(&[("authorization", &key)], &chat("", false)).await.status })
    };
    house.until("held", 1).await;
    let refused = house.ask_with(&[("authorization", &key)], &chat("", false)).await;
    assert_eq!(refused.headers["retry-after"], "1");
    assert!(refused.error(429).await.contains("at once"));
    assert_eq!(house.slot().await["held"], 1);
    open(&gate).await;
    assert_eq!(held.await.unwrap(), 200);
    // The place is free again with the answer's last byte.
    for _ in 0..2 {
        assert_eq!(house.ask_with(&[("authorization", &second)], &chat("", false)).await.status, 200);
    }
    let refused = house.ask_with(&[("authorization", &second)], &chat("", false)).await;
    assert!(refused.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() >= 25);
    assert!(refused.error(429).await.contains("2 requests a minute"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_let_through_as_the_bounds_of_the_model_and_the_shares_of_tenants_say() {
    let ((acme, key), (umbrella, second)) = (tenant("acme"), tenant("umbrella"));
    let (acme, umbrella) =
        (TenantEntry { hold_max: Some(3), ..acme }, TenantEntry { priority: 3, hold_max: Some(1), ..umbrella });
    let house = House::with(&[Start::Ready], |_, config| {
        config.tenants = vec![acme, umbrella];
        config.models[0].concurrency = Some(1);
        config.models[0].hold_max = Some(3);
    })
    .await;
    let house = Arc::new(house);
    let mut running = house.ask_with(&[("authorization", &key)], &chat("forever", true)).await;
    assert_eq!(running.next().await.unwrap().unwrap(), "data: 1\n\n");
    let ask = |key: &str, user: &'static str| {
        let (house, key) = (house.clone(), key.to_owned());
        tokio::spawn(async move { house.ask_with(&[("authorization", &key)], &chat(user, true)).await })
    };
    let first = ask(&key, "forever");
    house.until("held", 1).await;
    let second_first = ask(&second, "forever");
    house.until("held", 2).await;
    let full = house.ask_with(&[("authorization", &second)], &chat("", false)).await;
    assert!(full.error(429).await.contains("of your requests"));
    let third = ask(&key, "");
    house.until("held", 3).await;
    let full = house.ask_with(&[("authorization", &key)], &chat("", false)).await;
    assert!(full.error(429).await.contains("Too many requests wait"));
    drop(running);
    // Priority comes first, though it came later.
    let running = second_first.await.unwrap();
    assert_eq!((running.status.as_u16(), house.slot().await["held"].clone()), (200, json!(2)));
    drop(running);
    drop(first.await.unwrap());
    assert_eq!(third.await.unwrap().status, 200);
}

#[tokio::test]
async fn what_cannot_be_answered_in_time_is_turned_away_at_once() {
    let house = House::with(&[Start::Ready], |_, config| config.models[0].concurrency = Some(1)).await;
    let mut slow = house.ask(&chat("forever", true)).await;
    assert_eq!(slow.next().await.unwrap().unwrap(), "data: 1\n\n");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    drop(slow);
    house.until("in_flight", 0).await;
    let mut running = house.ask(&chat("forever", true)).await;
    assert_eq!(running.next().await.unwrap().unwrap(), "data: 1\n\n");
    let refused = house.ask_with(&[("x-request-timeout-ms", "700")], &chat("", false)).await;
    assert_eq!(refused.headers["retry-after"], "2");
    assert!(refused.error(503).await.contains("deadline"));
}

#[tokio::test]
async fn a_models_own_sampling_and_names_are_used() {
    let house = House::with(&[Start::Ready], |_, config| {
        config.models[0].aliases = vec!["gpt".into()];
        config.models[0].sampling = json!({"temperature": 0.25}).as_object().unwrap().clone();
    })
    .await;
    let body = json!({"model": "gpt", "seed": 1, "messages": [{"role": "user", "content": "hi"}]});
    let seen = house.ask(&body).await.json().await["body"].clone();
    let seen: Value = serde_json::from_str(seen.as_str().unwrap()).unwrap();
    assert_eq!((&seen["temperature"], &seen["model"]), (&json!(0.25), &json!("m")));
    assert_eq!(house.slot().await["name"], "m");
}

/// Tokens of an identity provider and the document with its keys.
struct Provider {
    pkcs8: ring::pkcs8::Document,
}

impl Provider {
    fn new() -> Self {
        Self { pkcs8: Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap() }
    }

    fn jwk(&self, kid: &str) -> Value {
        use base64::Engine;
        let pair = Ed25519KeyPair::from_pkcs8(self.pkcs8.as_ref()).unwrap();
        let x = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": kid, "x": x})
    }

    fn token(&self, kid: &str, change: impl FnOnce(&mut Value)) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({
            "iss": "https://id.test", "aud": ["pilotlight", "x"], "exp": now + 60, "sub": "alice", "org": {"tenant": "acme"},
        });
        change(&mut claims);
        let header = Header { kid: Some(kid.into()), ..Header::new(Algorithm::EdDSA) };
        let token = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ed_der(self.pkcs8.as_ref())).unwrap();
        format!("Bearer {token}")
    }
}

#[tokio::test]
async fn tokens_are_taken_from_their_issuer_alone_and_keys_may_change() {
    let folder = tempfile::tempdir().unwrap();
    let (path, audit_path) = (folder.path().join("jwks.json"), folder.path().join("audit.jsonl"));
    let publish = |keys: &[Value]| std::fs::write(&path, json!({ "keys": keys }).to_string()).unwrap();
    let (old, new) = (Provider::new(), Provider::new());
    publish(&[old.jwk("old")]);
    let issuer = IssuerEntry {
        issuer: "https://id.test".into(),
        audience: "pilotlight".into(),
        keys: KeySource::File(path.clone()),
        tenant_claim: "org.tenant".into(),
        tenants: None,
    };
    let house = House::with(&[Start::Ready], |_, config| {
        config.tenants = vec![TenantEntry::new("acme")];
        config.issuers = vec![issuer];
        config.audit = Some(audit_path.clone());
    })
    .await;
    let ask = async |token: &str| house.ask_with(&[("authorization", token)], &chat("", false)).await;
    for (change, why) in [
        (&(|claims: &mut Value| claims["exp"] = json!(1)) as &dyn Fn(&mut Value), "expired"),
        (&|claims: &mut Value| claims["iss"] = json!("https://evil.test"), "another issuer"),
        (&|claims: &mut Value| claims["aud"] = json!("somebody"), "somebody else"),
        (&|claims: &mut Value| drop(claims.as_object_mut().unwrap().remove("exp")), "lacks"),
        (&|claims: &mut Value| claims["org"] = json!("acme"), "names no tenant"),
    ] {
        let message = ask(&old.token("old", change)).await.error(401).await;
        assert!(message.contains(why), "{message}");
    }
    let unknown = old.token("old", |claims| claims["org"]["tenant"] = json!("umbrella"));
    assert!(ask(&unknown).await.error(403).await.contains("not known"));
    let forged = new.token("old", |_| ());
    assert!(ask(&forged).await.error(401).await.contains("signature"));
    // Whoever knows the public key could make this, were it taken for a shared secret.
    let confused = jsonwebtoken::encode(
        &Header { kid: Some("old".into()), ..Header::new(Algorithm::HS256) },
        &json!({"iss": "https://id.test", "aud": "pilotlight", "exp": 9_999_999_999_u64, "org": {"tenant": "acme"}}),
        &EncodingKey::from_secret(old.jwk("old")["x"].as_str().unwrap().as_bytes()),
    );
    assert!(ask(&format!("Bearer {}", confused.unwrap())).await.error(401).await.contains("not signed"));
    assert_eq!(house.files.lives(), 0);
    assert_eq!(ask(&old.token("old", |_| ())).await.status, 200);

    publish(&[new.jwk("new")]);
    // A key that is not known has them read again, though not more often than every ten seconds.
    let rotated = async { while ask(&new.token("new", |_| ())).await.status != 200 {} };
    tokio::time::timeout(Duration::from_secs(30), rotated).await.unwrap();
    assert!(ask(&old.token("old", |_| ())).await.error(401).await.contains("publish"));
    house.activator.drain().await;
    let text = std::fs::read_to_string(&audit_path).unwrap();
    assert!(text.contains("\"by\":\"jwt:alice\""), "{text}");
    assert!(!text.contains("\"content\"") && !text.contains("hi\""), "no prompt is written down");
}

#[tokio::test]
async fn every_request_that_was_let_in_is_recorded_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let (acme, key) = tenant("acme");
    let id = acme.keys[0].id.clone();
    let house = House::with(&[Start::Ready], |_, config| {
        config.tenants = vec![acme];
        config.audit = Some(path.clone());
    })
    .await;
    let ask = async |user: &str, stream| house.ask_with(&[("authorization", &key)], &chat(user, stream)).await;
    assert_eq!(ask("", false).await.status, 200);
    assert!(ask("", true).await.text().await.ends_with("[DONE]\n\n"));
    assert_eq!(ask("refuse", false).await.status, 400);
    let mut left = ask("forever", true).await;
    assert!(left.next().await.unwrap().is_ok());
    drop(left);
    assert_eq!(house.ask(&chat("", false)).await.status, 401);
    let unknown = json!({"model": "x", "messages": [{"role": "user", "content": "hi"}]});
    assert_eq!(house.ask_with(&[("authorization", &key)], &unknown).await.status, 404);
    house.until("in_flight", 0).await;
    house.activator.drain().await;

    assert_eq!(audit::verify(&path).unwrap().lines, 5);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines.sort_by_key(|line| line["at_ms"].as_u64());
    let told: Vec<_> =
        lines.iter().map(|line| (line["status"].as_u64().unwrap(), line["complete"].as_bool().unwrap())).collect();
    assert_eq!(told, [(200, true), (200, true), (400, true), (200, false), (404, true)]);
    assert!(lines.iter().all(|line| line["tenant"] == "acme" && line["by"] == format!("key:{id}").as_str()));
}
