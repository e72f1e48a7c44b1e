//! What is refused, and how.
#![allow(clippy::unwrap_used)]

mod support;

use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use support::{Child, MODEL, cases, completion, ids};

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

#[tokio::test]
async fn a_token_that_the_model_cannot_read_is_a_400_that_names_it_and_harms_nobody() {
    let child = Child::ready_with_oddities().await;
    let image = "look <image_soft_token>";
    let cases = [
        ("/v1/completions", json!({"model": MODEL, "prompt": image}), "prompt"),
        ("/v1/completions", json!({"model": MODEL, "prompt": ["a", image]}), "prompt[1]"),
        ("/v1/completions", json!({"model": MODEL, "prompt": [[1], [1, 800]]}), "prompt[1]"),
        ("/v1/chat/completions", json!({"model": MODEL, "messages": [{"role": "user", "content": image}]}), "messages"),
    ];
    for (path, body, param) in cases {
        let (status, error) = child.post(path, &body).await;
        assert_eq!((status, &error["error"]["param"]), (StatusCode::BAD_REQUEST, &json!(param)), "{error}");
        let message = error["error"]["message"].as_str().unwrap();
        assert!(message.contains("800") && message.contains("image_soft_token"), "{message}");
    }
    let (status, tokens) = child.post("/tokenize", &json!({"prompt": image})).await;
    assert_eq!((status, tokens["tokens"].as_array().unwrap().last().unwrap()), (StatusCode::OK, &json!(800)));
    child.complete(&json!([1, 2]), 2, json!({})).await;
}

#[tokio::test]
async fn a_text_that_cannot_fit_is_refused_before_it_is_encoded() {
    let child = Child::ready().await;
    let text = "lamp ".repeat(protocol::BODY_BYTES_MAX / 8);
    let chat = json!({"model": MODEL, "messages": [{"role": "user", "content": text}]});
    for (path, body, param) in [
        ("/v1/completions", json!({"model": MODEL, "prompt": text}), "prompt"),
        ("/v1/completions", json!({"model": MODEL, "prompt": ["a", text]}), "prompt[1]"),
        ("/v1/chat/completions", chat, "messages"),
    ] {
        let (status, error) = child.post(path, &body).await;
        let error = &error["error"];
        assert_eq!((status, &error["code"]), (StatusCode::BAD_REQUEST, &json!("context_length_exceeded")));
        assert_eq!(error["param"], param);
        // Its tokens were never counted.
        let message = error["message"].as_str().unwrap();
        assert!(message.contains("512 tokens") && message.contains("bytes"), "{message}");
    }
}

#[tokio::test]
async fn extreme_sampling_is_never_our_fault() {
    let child = Child::ready().await;
    let bias: serde_json::Map<String, Value> =
        (0..700).map(|id| (id.to_string(), json!(if id % 2 == 0 { 100 } else { -100 }))).collect();
    for (extra, status) in [
        (json!({"temperature": 1e-40}), 200),
        (json!({"temperature": 1e-320}), 200),
        (json!({"temperature": 2, "top_p": 0}), 200),
        (json!({"temperature": 1, "top_p": 1e-40}), 200),
        (json!({"temperature": 1, "min_p": 1}), 200),
        (json!({"temperature": 1, "min_p": 1e-40, "top_k": 1}), 200),
        (json!({"temperature": 1, "logit_bias": bias}), 200),
        (json!({"temperature": 1, "frequency_penalty": -2, "presence_penalty": 2}), 200),
        (json!({"temperature": 1, "repetition_penalty": 0.01}), 200),
        (json!({"temperature": 1, "repetition_penalty": 100}), 200),
        (json!({"temperature": 1, "repetition_penalty": 1e-40}), 400),
        (json!({"temperature": 1, "repetition_penalty": 1e-9}), 400),
    ] {
        let body = completion(&json!([1, 2, 3]), 40, extra.clone());
        let (got, answer) = child.post("/v1/completions", &body).await;
        assert_eq!(got.as_u16(), status, "{extra}: {answer}");
    }
}

#[tokio::test]
async fn nothing_is_started_of_a_request_that_is_wrong_at_its_end() {
    let child = Child::ready().await;
    let before = child.stats().await;
    let prompts = json!([vec![5; 100], vec![5; 500]]);
    let body = completion(&prompts, 20, json!({"n": 4}));
    assert_eq!(child.post("/v1/completions", &body).await.0, StatusCode::BAD_REQUEST);
    let form = json!({"model": MODEL, "prompt": vec![5; 100], "n": 8, "guided_regex": "(unclosed"});
    assert_eq!(child.post("/v1/completions", &form).await.1["error"]["param"], "guided_regex");
    let after = child.stats().await;
    assert_eq!((after.kv_blocks_idle, after.running), (before.kv_blocks_idle, 0), "no block was ever filled");
}

#[tokio::test]
async fn the_makers_penalty_is_the_default_and_a_requests_own_wins() {
    let (odd, plain) = (Child::ready_with_oddities().await, Child::ready().await);
    let prompt = &cases()[0]["prompt_ids"];
    let extra =
        |penalty: Value| json!({"repetition_penalty": penalty, "logprobs": 0, "return_tokens_as_token_ids": true});
    let none = ids(&plain.complete(prompt, 30, extra(Value::Null)).await);
    let makers = ids(&odd.complete(prompt, 30, extra(Value::Null)).await);
    assert_ne!(makers, none);
    assert_eq!(makers, ids(&plain.complete(prompt, 30, extra(json!(50))).await));
    assert_eq!(none, ids(&odd.complete(prompt, 30, extra(json!(1))).await));
}

#[tokio::test]
async fn a_form_ends_cleanly_where_the_model_has_no_end_token() {
    let child = Child::ready_with_oddities().await;
    for seed in 0..8 {
        // Token 0 is no end here, and is never part of a form.
        let body = json!({"model": MODEL, "prompt": [5, 9], "seed": seed, "guided_regex": "[ab]{0,3}", "max_tokens": 20,
            "logprobs": 0, "return_tokens_as_token_ids": true, "logit_bias": {"0": 100}});
        let (status, answer) = child.post("/v1/completions", &body).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let text = answer["choices"][0]["text"].as_str().unwrap();
        assert!(text.len() == 3 && text.chars().all(|c| "ab".contains(c)), "{answer}");
        assert!(!ids(&answer).contains(&0) && answer["choices"][0]["finish_reason"] == "stop", "{answer}");
    }
}
