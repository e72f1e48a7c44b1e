//! Calls of tools through HTTP: a model whose weights are random calls what it must, because nothing else may come.
#![allow(missing_docs, clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use support::Child;

fn tools() -> Value {
    let place = json!({"$ref": "#/$defs/place"});
    json!([
        {"type": "function", "function": {"name": "get_weather", "description": "of a place", "parameters": {
            "$defs": {"place": {"enum": ["Kiel", "Ærø"]}}, "type": "object", "properties": {"place": place},
            "required": ["place"], "additionalProperties": false}}},
        {"type": "function", "function": {"name": "switch_lamp", "parameters": {
            "type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"], "additionalProperties": false}}},
    ])
}

fn ask(more: Value) -> Value {
    let mut body = json!({"model": support::MODEL, "messages": [{"role": "user", "content": "lamp?"}], "tools": tools(),
        "tool_choice": "required", "parallel_tool_calls": false, "max_tokens": 150, "seed": 4});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn check(call: &Value) {
    let arguments: Value = serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).unwrap();
    match call["function"]["name"].as_str().unwrap() {
        "get_weather" => assert!(["Kiel", "Ærø"].contains(&arguments["place"].as_str().unwrap()), "{call}"),
        "switch_lamp" => assert!(arguments["on"].is_boolean(), "{call}"),
        other => panic!("{other}"),
    }
    assert!(call["id"].as_str().unwrap().len() == 9 && call["type"] == "function", "{call}");
}

#[tokio::test]
async fn required_and_named_calls_follow_their_schemas_whole_and_streamed() {
    let child = Child::ready_with_tools().await;
    for seed in 0..6 {
        let (status, answer) = child.post("/v1/chat/completions", &ask(json!({"seed": seed}))).await;
        assert_eq!(status, 200, "{answer}");
        let choice = &answer["choices"][0];
        assert_eq!(
            (&choice["finish_reason"], &choice["message"]["content"]),
            (&json!("tool_calls"), &Value::Null),
            "{answer}"
        );
        choice["message"]["tool_calls"].as_array().unwrap().iter().for_each(check);
        let streamed = child.stream("/v1/chat/completions", &ask(json!({"seed": seed, "stream": true}))).await;
        let mut calls: Vec<Value> = Vec::new();
        let mut finish = Value::Null;
        for event in &streamed {
            let choice = &event["choices"][0];
            for delta in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
                let index = delta["index"].as_u64().unwrap() as usize;
                if index == calls.len() {
                    assert!(delta["id"].is_string() && delta["function"]["name"].is_string(), "{delta}");
                    calls.push(delta.clone());
                } else {
                    assert!(delta.get("id").is_none() && delta["function"].get("name").is_none(), "{delta}");
                    let more = delta["function"]["arguments"].as_str().unwrap();
                    let all = format!("{}{more}", calls[index]["function"]["arguments"].as_str().unwrap());
                    calls[index]["function"]["arguments"] = all.into();
                }
            }
            finish = if choice["finish_reason"].is_null() { finish } else { choice["finish_reason"].clone() };
        }
        assert_eq!(finish, "tool_calls");
        let essence = |call: &Value| (call["function"]["name"].clone(), call["function"]["arguments"].clone());
        let whole: Vec<_> = choice["message"]["tool_calls"].as_array().unwrap().iter().map(essence).collect();
        assert_eq!(calls.iter().map(essence).collect::<Vec<_>>(), whole);
    }
    // Several at once: as many as the budget lets come, each whole but perhaps the last.
    let (_, answer) = child.post("/v1/chat/completions", &ask(json!({"parallel_tool_calls": true, "seed": 1}))).await;
    let calls = answer["choices"][0]["message"]["tool_calls"].as_array().unwrap();
    assert!(calls.len() > 1, "{answer}");
    calls[..calls.len() - 1].iter().for_each(check);
    let named = json!({"tool_choice": {"type": "function", "function": {"name": "switch_lamp"}}});
    let (_, answer) = child.post("/v1/chat/completions", &ask(named)).await;
    let calls = answer["choices"][0]["message"]["tool_calls"].as_array().unwrap();
    assert!(calls.len() == 1 && calls[0]["function"]["name"] == "switch_lamp", "{answer}");
}

#[tokio::test]
async fn a_conversation_with_results_goes_on_and_a_template_without_tools_is_told_them() {
    let child = Child::ready_with_tools().await;
    let messages = json!([
        {"role": "user", "content": "lamp?"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "switch_lamp", "arguments": "{\"on\": true}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "it is on"},
    ]);
    let (status, answer) = child
        .post("/v1/chat/completions", &ask(json!({"messages": messages, "tool_choice": "auto", "max_tokens": 4})))
        .await;
    assert_eq!(status, 200, "{answer}");
    let (status, answer) =
        child.post("/v1/chat/completions", &ask(json!({"tool_choice": "none", "max_tokens": 2}))).await;
    assert_eq!(status, 200, "{answer}");
    let plain = Child::ready().await;
    let (status, answer) = plain
        .post("/v1/chat/completions", &ask(json!({"messages": messages, "tool_choice": "auto", "max_tokens": 4})))
        .await;
    assert_eq!(status, 200, "{answer}");
    for (choice, names) in [
        (json!("required"), vec!["get_weather", "switch_lamp"]),
        (json!({"type": "function", "function": {"name": "switch_lamp"}}), vec!["switch_lamp"]),
    ] {
        let (status, answer) =
            plain.post("/v1/chat/completions", &ask(json!({"tool_choice": choice, "max_tokens": 100}))).await;
        assert_eq!(status, 200, "{answer}");
        let calls = answer["choices"][0]["message"]["tool_calls"].as_array().unwrap();
        assert!(calls.len() == 1 && names.contains(&calls[0]["function"]["name"].as_str().unwrap()), "{answer}");
        check(&calls[0]);
    }
}

#[tokio::test]
async fn an_answer_with_a_form_of_its_own_is_content_though_it_may_call() {
    let child = Child::ready().await;
    let schema = json!({"type": "object", "properties": {"name": {"const": "switch_lamp"}, "parameters": {"const": {}}},
        "required": ["name", "parameters"], "additionalProperties": false});
    let format = json!({"type": "json_schema", "json_schema": {"name": "a", "schema": schema}});
    let (status, answer) = child
        .post(
            "/v1/chat/completions",
            &ask(json!({"tool_choice": "auto", "response_format": format, "max_tokens": 100})),
        )
        .await;
    assert_eq!(status, 200, "{answer}");
    let choice = &answer["choices"][0];
    let content: Value = serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap();
    assert_eq!((&content["name"], &choice["finish_reason"]), (&json!("switch_lamp"), &json!("stop")), "{answer}");
    assert!(choice["message"].get("tool_calls").is_none(), "{answer}");
}
