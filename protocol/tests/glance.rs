//! What is seen of a chat at a glance beside what is read of it.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use protocol::{Glance, glance_chat, parse_chat};
use serde_json::{Value, json};

fn check(body: &str) -> Option<()> {
    let Glance { model, stream, has_seed } = glance_chat(body.as_bytes())?;
    let read = parse_chat(body.as_bytes()).unwrap_or_else(|error| panic!("{body}: {error:?}")).generate;
    assert_eq!((&*model, stream, has_seed), (&*read.model, read.stream, read.seed.is_some()), "{body}");
    Some(())
}

#[test]
fn plain_chats_are_seen_and_others_are_read() {
    let messages = json!([{"role": "system", "content": "Be \"brief\".\u{1F680}"}, {"role": "user", "content": ""}]);
    let with = |field: &str, value: Value| {
        let mut body = json!({"model": "m", "messages": messages, "stream": true});
        body[field] = value;
        body.to_string()
    };
    for (field, value, seen) in [
        ("stream", json!(null), true),
        ("stream_options", json!({"include_usage": true}), true),
        ("stream_options", json!({"other": 1}), false),
        ("seed", json!(-3), true),
        ("seed", json!(1.5), false),
        ("max_tokens", json!(12), true),
        ("max_tokens", json!(0), false),
        ("temperature", json!(2), true),
        ("temperature", json!(2.1), false),
        ("temperature", json!(-0.1), false),
        ("top_p", json!(0.5), true),
        ("top_p", json!(1.5), false),
        ("user", json!("me"), true),
        ("user", json!(1), false),
        ("tools", json!([]), false),
        ("model", json!(""), false),
        ("messages", json!([]), false),
        ("messages", json!([{"role": "tool", "content": "x"}]), false),
        ("messages", json!([{"role": "user", "content": "x", "name": "n"}]), false),
        ("messages", json!([["user", "hi"]]), false),
        ("messages", json!([{"role": {"user": null}, "content": "x"}]), false),
        ("stream_options", json!([true]), false),
    ] {
        let body = with(field, value);
        assert_eq!(check(&body).is_some(), seen, "{body}");
    }
    assert!(check(r#"{"model":"m","messages":[{"role":"user","content":"a"}],"stream_options":{}}"#).is_none());
    assert!(check(r#"{"model":"m","model":"n","messages":[{"role":"user","content":"a"}]}"#).is_none());
    assert!(check(r#"["m",[{"role":"user","content":"a"}],null,null,null,null,null,null,null,null]"#).is_none());
    assert!(check(&with("user", json!("x".repeat(protocol::BODY_BYTES_MAX)))).is_none());
}

/// Values that a field may well have, and some that it may not.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        (-3i64..3).prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1.0..3.0).prop_map(|number: f64| json!(number)),
        "\\PC{0,3}".prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([true])),
        Just(json!({"user": null})),
        any::<bool>().prop_map(|wanted| json!({"include_usage": wanted})),
    ]
}

fn messages() -> impl Strategy<Value = Value> {
    let role = prop_oneof![Just("user"), Just("system"), Just("assistant"), Just("tool"), Just("developer"), Just("")];
    let message = (role, prop_oneof![4 => any::<String>().prop_map(Value::from), 1 => value()]);
    prop::collection::vec(message.prop_map(|(role, content)| json!({"role": role, "content": content})), 0..4)
        .prop_map(Value::from)
}

proptest! {
    #[test]
    fn what_is_seen_is_what_is_read(
        model in prop_oneof![4 => Just(json!("m")), 1 => value()],
        messages in prop_oneof![4 => messages(), 1 => value()],
        fields in prop::collection::vec((prop::sample::select(vec![
            "stream", "stream_options", "seed", "max_tokens", "max_completion_tokens", "temperature", "top_p", "user", "n", "stop", "logprobs",
        ]), value()), 0..5),
    ) {
        let mut body = json!({"model": model, "messages": messages});
        for (field, value) in fields {
            body[field] = value;
        }
        check(&body.to_string());
    }
}
