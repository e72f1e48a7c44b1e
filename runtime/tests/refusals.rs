//! What is refused, and how.
#![allow(clippy::unwrap_used)]

mod support;

use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use support::{Child, MODEL, completion};

#[tokio::test]
async fn every_refusal_is_an_openai_error_object_with_its_status() {
    let child = Child::ready().await;
    let ok = completion(&json!([1, 2]), 4, json!({}));
    let with = |field: &str, value: Value| {
        let mut body = ok.clone();
        body[field] = value;
        body.to_string()
    };
    let cases = [
        (Method::GET, "/v1/completions", String::new(), 405, None),
        (Method::DELETE, "/v1/models", String::new(), 405, None),
        (Method::GET, "/v1/nothing", String::new(), 404, None),
        (Method::GET, "/v1/models/other", String::new(), 404, Some("model")),
        (Method::POST, "/v1/completions", "{".into(), 400, None),
        (Method::POST, "/v1/completions", with("model", json!("other/model")), 404, Some("model")),
        (Method::POST, "/v1/completions", with("temperature", json!("hot")), 400, Some("temperature")),
        (Method::POST, "/v1/completions", with("prompt", json!([1, 800])), 400, Some("prompt")),
        (Method::POST, "/v1/completions", with("logit_bias", json!({"800": 1})), 400, Some("logit_bias")),
        (Method::POST, "/v1/completions", with("max_tokens", json!(511)), 400, Some("max_tokens")),
        (Method::POST, "/v1/completions", with("max_tokens", json!(4294967295u32)), 400, Some("max_tokens")),
        (Method::POST, "/v1/completions", " ".repeat(protocol::BODY_BYTES_MAX + 1), 413, None),
        (Method::POST, "/detokenize", json!({"tokens": [800]}).to_string(), 400, Some("tokens")),
        (Method::POST, "/tokenize", json!({"model": "other", "prompt": "x"}).to_string(), 404, Some("model")),
    ];
    for (method, path, body, status, param) in cases {
        let response = child.send(method, path, body).await;
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (status, &"application/json".parse().unwrap()),
            "{path}"
        );
        let error: Value = serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
        assert!(error["error"]["message"].is_string() && error["error"]["type"].is_string());
        assert_eq!(error["error"]["param"].as_str(), param, "{error}");
    }
    child.until_idle().await;
}

#[tokio::test]
async fn a_context_too_long_names_both_numbers() {
    let child = Child::ready().await;
    let (status, error) = child.post("/v1/completions", &completion(&json!(vec![5; 500]), 20, json!({}))).await;
    assert_eq!((status, &error["error"]["code"]), (StatusCode::BAD_REQUEST, &json!("context_length_exceeded")));
    let message = error["error"]["message"].as_str().unwrap();
    assert!(message.contains("512") && message.contains("520"), "{message}");
    // Exactly the context is fine.
    child.complete(&json!(vec![5; 500]), 12, json!({})).await;
    let chat = json!({"model": MODEL, "messages": [{"role": "user", "content": "x ".repeat(600)}]});
    assert_eq!(child.post("/v1/chat/completions", &chat).await.1["error"]["code"], "context_length_exceeded");
}
