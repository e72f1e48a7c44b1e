//! Requests through one door: a body and what becomes of it.
#![allow(clippy::unwrap_used)]

use protocol::{
    ApiError, ErrorKind, Prompt, TokenizeInput, parse_chat, parse_completion, parse_detokenize, parse_tokenize, peek,
};
use serde_json::{Value, json};

fn chat(extra: Value) -> Result<protocol::ChatRequest, ApiError> {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    parse_chat(body.to_string().as_bytes())
}

fn completion(extra: Value) -> Result<protocol::CompletionRequest, ApiError> {
    let mut body = json!({"model": "m", "prompt": "hi"});
    body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    parse_completion(body.to_string().as_bytes())
}

#[test]
fn a_wrong_field_is_named_with_what_was_expected() {
    let cases = [
        (json!({"temperature": "0.7"}), "temperature", "temperature: expected a number, got a string"),
        (json!({"temperature": 2.5}), "temperature", "temperature: must be between 0 and 2, got 2.5"),
        (json!({"top_p": -0.1}), "top_p", "top_p: must be between 0 and 1, got -0.1"),
        (json!({"top_k": 1.5}), "top_k", "top_k: expected an integer, got 1.5"),
        (json!({"top_k": -2}), "top_k", "top_k: must be between -1 and 4294967295, got -2"),
        (json!({"n": 0}), "n", "n: must be between 1 and 128, got 0"),
        (json!({"n": 1e300}), "n", "n: must be between 1 and 128, got 1e+300"),
        (json!({"max_tokens": 0}), "max_tokens", "max_tokens: must be between 1 and 4294967295, got 0"),
        (
            json!({"max_completion_tokens": []}),
            "max_completion_tokens",
            "max_completion_tokens: expected an integer, got an array",
        ),
        (json!({"presence_penalty": 3}), "presence_penalty", "presence_penalty: must be between -2 and 2, got 3"),
        (
            json!({"repetition_penalty": 0}),
            "repetition_penalty",
            "repetition_penalty: must be between 0.01 and 100, got 0",
        ),
        (
            json!({"repetition_penalty": 0.001}),
            "repetition_penalty",
            "repetition_penalty: must be between 0.01 and 100, got 0.001",
        ),
        (json!({"user": 7}), "user", "user: expected a string, got a number"),
        (json!({"stop": 7}), "stop", "stop: expected a string or an array of strings, got a number"),
        (json!({"stop": ["a", 7]}), "stop[1]", "stop[1]: expected a string, got a number"),
        (json!({"stop": ""}), "stop", "stop: must not be empty"),
        (json!({"stop": vec!["x"; 17]}), "stop", "stop: has 17 strings; the limit is 16"),
        (json!({"stream": "yes"}), "stream", "stream: expected a boolean, got a string"),
        (
            json!({"stream_options": {"include_usage": true}}),
            "stream_options",
            "stream_options: is only allowed when stream is true",
        ),
        (
            json!({"stream": true, "stream_options": {"include_usage": 1}}),
            "stream_options.include_usage",
            "stream_options.include_usage: expected a boolean, got a number",
        ),
        (json!({"seed": "x"}), "seed", "seed: expected an integer, got a string"),
        (json!({"logit_bias": {"12": "x"}}), "logit_bias.12", "logit_bias.12: expected a number, got a string"),
        (json!({"logit_bias": {"x": 1}}), "logit_bias.x", "logit_bias.x: is not a token id"),
        (json!({"model": 1}), "model", "model: expected a string, got a number"),
        (json!({"model": null}), "model", "model: is required"),
        (json!({"model": ""}), "model", "model: must not be empty"),
    ];
    for (extra, param, message) in cases {
        for e in [chat(extra.clone()).unwrap_err(), completion(extra.clone()).unwrap_err()] {
            assert_eq!((e.param.as_deref(), e.message.as_str()), (Some(param), message));
            assert_eq!((e.kind, e.status().as_u16()), (ErrorKind::InvalidRequest, 400));
        }
    }
}

#[test]
fn a_wrong_message_is_named_by_its_path() {
    let cases = [
        (json!("hi"), "messages"),
        (json!([]), "messages"),
        (json!(["hi"]), "messages[0]"),
        (json!([{"content": "x"}]), "messages[0].role"),
        (json!([{"role": 1, "content": "x"}]), "messages[0].role"),
        (json!([{"role": "user"}]), "messages[0].content"),
        (json!([{"role": "user", "content": 3}]), "messages[0].content"),
        (json!([{"role": "user", "content": [{"text": "x"}]}]), "messages[0].content[0].type"),
        (json!([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]), "messages[0].content[0].type"),
        (json!([{"role": "user", "content": [{"type": "text", "text": 1}]}]), "messages[0].content[0].text"),
        (json!([{"role": "function", "content": "x"}]), "messages[0].role"),
        (json!([{"role": "assistant", "content": "x", "tool_calls": [{}]}]), "messages[0].tool_calls[0].function"),
    ];
    for (messages, param) in cases {
        assert_eq!(chat(json!({"messages": messages})).unwrap_err().param.as_deref(), Some(param), "{messages}");
    }
}

#[test]
fn a_feature_that_is_not_there_is_refused_by_name_and_its_neutral_value_is_not() {
    let refused = [
        json!({"modalities": ["text", "audio"]}),
        json!({"functions": [{}]}),
        json!({"audio": {}}),
        json!({"min_tokens": 3}),
        json!({"continue_final_message": true}),
        json!({"echo": true}),
    ];
    for extra in refused {
        let e = chat(extra.clone()).unwrap_err();
        let name = extra.as_object().unwrap().keys().next().unwrap().clone();
        assert_eq!((e.kind, e.param), (ErrorKind::Unsupported, Some(name.clone())), "{extra}");
        assert_eq!(e.message, format!("{name}: this feature is not supported yet"));
    }
    for extra in [json!({"suffix": "x"}), json!({"best_of": 3})] {
        assert_eq!(completion(extra.clone()).unwrap_err().kind, ErrorKind::Unsupported, "{extra}");
    }
    let neutral = json!({"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "modalities": ["text"],
        "guided_json": null, "min_tokens": 0, "user": "u", "metadata": {"a": "b"}, "store": true, "service_tier": "auto", "no such field": [1]});
    chat(neutral).unwrap();
    completion(json!({"echo": false, "suffix": "", "best_of": 2, "n": 2})).unwrap();
}

#[test]
fn a_completion_may_give_back_its_prompt_and_nothing_else() {
    let asked = |extra| completion(extra).map(|r| (r.generate.echo, r.generate.max_tokens));
    assert_eq!(asked(json!({"echo": true})), Ok((true, Some(16))));
    assert_eq!(asked(json!({"echo": true, "max_tokens": 0})), Ok((true, Some(0))));
    assert_eq!(asked(json!({"max_tokens": 0})).unwrap_err().param.as_deref(), Some("max_tokens"));
    assert_eq!(asked(json!({"echo": 1})).unwrap_err().param.as_deref(), Some("echo"));
}

#[test]
fn fields_arrive_where_they_belong() {
    let r = chat(json!({"temperature": 0.5, "top_p": 0.25, "top_k": -1, "min_p": 0.1, "max_tokens": 7, "max_completion_tokens": 9.0,
        "stop": ["a", "b"], "seed": -1, "n": 2, "logprobs": true, "top_logprobs": 3, "logit_bias": {"5": -100}, "stream": true,
        "stream_options": {"include_usage": true}, "ignore_eos": true, "return_tokens_as_token_ids": true, "cache_prompt": false}))
    .unwrap()
    .generate;
    assert_eq!(
        (r.sampling.temperature, r.sampling.top_p, r.sampling.top_k, r.sampling.min_p),
        (Some(0.5), Some(0.25), Some(0), Some(0.1))
    );
    assert_eq!((r.max_tokens, r.n, r.seed, r.logprobs), (Some(9), 2, Some(u64::MAX), Some(3)));
    assert_eq!(r.sampling.logit_bias, [(5, -100.0)]);
    assert!(
        r.stream && r.include_usage && r.ignore_eos && r.return_tokens_as_token_ids && !r.cache_prompt && r.speculate
    );
    assert_eq!(chat(json!({"logprobs": true})).unwrap().generate.logprobs, Some(0));
    assert_eq!(chat(json!({"logprobs": true, "top_logprobs": 21})).unwrap_err().param.as_deref(), Some("top_logprobs"));
    assert_eq!(completion(json!({"logprobs": 5})).unwrap().generate.logprobs, Some(5));
    assert_eq!(completion(json!({})).unwrap().generate.max_tokens, Some(16));
    assert_eq!(chat(json!({})).unwrap().generate.max_tokens, None);
}

#[test]
fn messages_take_the_shape_that_templates_expect() {
    let r = chat(json!({"messages": [
        {"role": "developer", "content": "be brief", "name": "d"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]}))
    .unwrap();
    assert_eq!(
        r.messages,
        json!([{"role": "system", "content": "be brief", "name": "d"}, {"role": "user", "content": "a\nb"}])
    );
}

#[test]
fn all_four_shapes_of_a_prompt() {
    let prompts = |p: Value| completion(json!({"prompt": p})).map(|r| r.prompts);
    assert_eq!(prompts(json!("a")).unwrap(), [Prompt::Text("a".into())]);
    assert_eq!(prompts(json!(["a", "b"])).unwrap(), [Prompt::Text("a".into()), Prompt::Text("b".into())]);
    assert_eq!(prompts(json!([1, 2])).unwrap(), [Prompt::Tokens(vec![1, 2])]);
    assert_eq!(prompts(json!([[1], [2, 3]])).unwrap(), [Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])]);
    for (wrong, param) in [
        (json!([]), "prompt"),
        (json!({}), "prompt"),
        (json!([1, -2]), "prompt[1]"),
        (json!([1, "a"]), "prompt[1]"),
        (json!([[1], []]), "prompt[1]"),
        (json!([[1], [2.5]]), "prompt[1][0]"),
        (json!([[1], 7]), "prompt[1]"),
        (json!(vec!["x"; 129]), "prompt"),
    ] {
        assert_eq!(prompts(wrong.clone()).unwrap_err().param.as_deref(), Some(param), "{wrong}");
    }
    assert_eq!(completion(json!({"prompt": ["a", "b"], "n": 65})).unwrap_err().param.as_deref(), Some("prompt"));
}

#[test]
fn tokenize_takes_text_or_messages_and_detokenize_ids() {
    let t = parse_tokenize(br#"{"prompt": "a"}"#).unwrap();
    assert_eq!((t.input, t.add_special_tokens), (TokenizeInput::Prompt("a".into()), true));
    let t =
        parse_tokenize(br#"{"messages": [{"role": "user", "content": "a"}], "add_generation_prompt": false}"#).unwrap();
    assert!(matches!(t.input, TokenizeInput::Messages { add_generation_prompt: false, .. }) && !t.add_special_tokens);
    assert_eq!(parse_tokenize(b"{}").unwrap_err().param.as_deref(), Some("prompt"));
    assert_eq!(parse_detokenize(br#"{"tokens": [1, 2]}"#).unwrap().tokens, [1, 2]);
    assert_eq!(parse_detokenize(br#"{"tokens": [1, 4294967296]}"#).unwrap_err().param.as_deref(), Some("tokens[1]"));
}

#[test]
fn broken_and_absurd_bodies_are_refused() {
    let deep = format!("{{\"model\":\"m\",\"x\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let bodies: [&[u8]; 7] = [b"", b"nul", b"[]", b"\"x\"", b"{\"model\":\"m\"", b"\xff\xfe", deep.as_bytes()];
    for body in bodies {
        for e in [parse_chat(body).unwrap_err(), parse_completion(body).unwrap_err(), peek(body).unwrap_err()] {
            assert_eq!(e.status().as_u16(), 400, "{e}");
        }
    }
    let large = vec![b' '; protocol::BODY_BYTES_MAX + 1];
    assert_eq!(parse_chat(&large).unwrap_err().status().as_u16(), 413);
    // Brackets in strings do not nest.
    let brackets = "[{".repeat(1000);
    completion(json!({"prompt": format!("\\\"{brackets}")})).unwrap();
}

#[test]
fn peek_reads_model_and_stream_alone() {
    let p = peek(br#"{"messages": 5, "stream": true, "model": "m"}"#).unwrap();
    assert_eq!((p.model.as_str(), p.stream), ("m", true));
    assert!(!peek(br#"{"model": "m", "stream": null}"#).unwrap().stream);
    assert_eq!(peek(br#"{"stream": true}"#).unwrap_err().param.as_deref(), Some("model"));
}

#[test]
fn an_error_is_openais_object() {
    let e = ApiError::context_length(500, 100, 512);
    assert_eq!(
        serde_json::from_str::<Value>(&e.to_json()).unwrap(),
        json!({"error": {"message": e.message, "type": "invalid_request_error", "param": "max_tokens", "code": "context_length_exceeded"}})
    );
    assert!(e.message.contains("512") && e.message.contains("600") && e.message.contains("500"));
    assert_eq!(protocol::sse::error_end(&e), format!("data: {}\n\ndata: [DONE]\n\n", e.to_json()));
    assert_eq!(protocol::sse::comment("a\nb"), ": a b\n\n");
}
