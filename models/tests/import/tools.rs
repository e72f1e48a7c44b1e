//! Tools, calls and results through templates in the shape of the published ones (`models/tests/templates`), and what is done for
//! those that have no place for them.

use crate::template::template;
use models::ChatTemplate;
use serde_json::{Value as Json, json};

fn named(name: &str) -> ChatTemplate {
    let file = format!("{}/tests/templates/{name}.jinja", env!("CARGO_MANIFEST_DIR"));
    // An editor's last line break is no part of it.
    let text = std::fs::read_to_string(&file).unwrap().trim_end().to_owned();
    template(json!({"chat_template": text, "bos_token": "<s>", "eos_token": "</s>"})).unwrap().unwrap()
}

fn tools() -> Json {
    json!([
        {"type": "function", "function": {"name": "switch_lamp", "description": "on or off", "parameters": {"type": "object"}}},
        {"type": "function", "function": {"name": "time", "parameters": {"type": "object"}}},
    ])
}

fn call(id: &str, name: &str, arguments: &str) -> Json {
    json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
}

/// Two calls, their results, an answer, and another question; ids as other servers make them.
fn conversation() -> Json {
    json!([
        {"role": "user", "content": "lamp?"},
        {"role": "assistant", "content": "", "tool_calls": [
            call("call_0123456789abcdef", "switch_lamp", "{\"on\": true}"), call("call_1", "time", "{}")]},
        {"role": "tool", "tool_call_id": "call_0123456789abcdef", "content": "it is on"},
        {"role": "tool", "tool_call_id": "call_1", "content": "noon"},
        {"role": "assistant", "content": "On, at noon."},
        {"role": "user", "content": "thanks"},
    ])
}

const TEMPLATES: [&str; 11] = [
    "llama-3.1",
    "qwen-2.5",
    "qwen-3",
    "mistral-v0.3",
    "mistral-nemo",
    "phi-4-mini",
    "gemma-3",
    "gemma-3-system",
    "mixtral",
    "phi-3",
    "smollm2",
];

#[test]
fn tools_calls_and_results_reach_every_prompt() {
    for name in TEMPLATES {
        let template = named(name);
        let render = |messages: &Json, tools: Option<&Json>| {
            template.render(messages, tools, true).unwrap_or_else(|error| panic!("{name}: {error}"))
        };
        for length in [1, 4, 6] {
            let messages = Json::from(conversation().as_array().unwrap()[..length].to_vec());
            let text = render(&messages, Some(&tools()));
            let mut words = vec!["switch_lamp", "time", "\"type\": \"object\"", "lamp?"];
            words.extend(if length > 1 { vec!["\"on\": true", "it is on", "noon"] } else { vec![] });
            words.extend(if length > 4 { vec!["On, at noon.", "thanks"] } else { vec![] });
            words.iter().for_each(|word| assert!(text.contains(word), "{name}: no {word} in\n{text}"));
            // Without tools, what was called before is still there.
            let text = render(&messages, None);
            assert_eq!(text.contains("it is on") && text.contains("switch_lamp"), length > 1, "{name}: {text}");
        }
        let plain = json!([{"role": "user", "content": "hi"}]);
        assert!(!render(&plain, None).contains("function"), "{name}: a conversation without tools is left alone");
    }
}

/// A result rendered for a call, from the call on.
fn check(name: &str, expected: &str) {
    let messages = Json::from(conversation().as_array().unwrap()[..4].to_vec());
    let text = named(name).render(&messages, Some(&tools()), true).unwrap();
    let (_, rest) = text.split_once("lamp?").unwrap();
    assert_eq!(rest, expected, "{name}");
}

#[test]
fn calls_and_results_are_where_each_family_has_them() {
    check(
        "llama-3.1",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n{\"name\": \"switch_lamp\", \"parameters\": {\"on\": true}}<|eot_id|>\
         <|start_header_id|>ipython<|end_header_id|>\n\n\"it is on\"<|eot_id|>\
         <|start_header_id|>assistant<|end_header_id|>\n\n{\"name\": \"time\", \"parameters\": {}}<|eot_id|>\
         <|start_header_id|>ipython<|end_header_id|>\n\n\"noon\"<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    );
    check(
        "qwen-2.5",
        "<|im_end|>\n<|im_start|>assistant\n<tool_call>\n{\"name\": \"switch_lamp\", \"arguments\": {\"on\": true}}\n</tool_call>\n\
         <tool_call>\n{\"name\": \"time\", \"arguments\": {}}\n</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\nit is on\n\
         </tool_response>\n<tool_response>\nnoon\n</tool_response><|im_end|>\n<|im_start|>assistant\n",
    );
    check(
        "phi-4-mini",
        "<|end|><|assistant|><|tool_call|>[{\"name\": \"switch_lamp\", \"arguments\": {\"on\": true}}, \
         {\"name\": \"time\", \"arguments\": {}}]<|/tool_call|><|end|><|tool|>it is on<|end|><|tool|>noon<|end|><|assistant|>",
    );
    check(
        "gemma-3",
        "<end_of_turn>\n<start_of_turn>model\n{\"name\": \"switch_lamp\", \"parameters\": {\"on\": true}}\n\
         {\"name\": \"time\", \"parameters\": {}}<end_of_turn>\n<start_of_turn>user\nResult of switch_lamp: it is on\n\
         Result of time: noon<end_of_turn>\n<start_of_turn>model\n",
    );
    let text = "[TOOL_CALLS][{\"name\": \"switch_lamp\", \"arguments\": {\"on\": true}, \"id\": \"";
    let messages = Json::from(conversation().as_array().unwrap()[..4].to_vec());
    let nemo = named("mistral-nemo").render(&messages, Some(&tools()), true).unwrap();
    let id = &nemo[nemo.find(text).unwrap() + text.len()..][..9];
    assert!(nemo.contains(&format!("[TOOL_RESULTS]{{\"content\": it is on, \"call_id\": \"{id}\"}}")), "{nemo}");
}

#[test]
fn ids_that_fit_stay_as_they_are() {
    let messages = json!([
        {"role": "user", "content": "lamp?"},
        {"role": "assistant", "content": "", "tool_calls": [call("a1B2c3D4e", "time", "{}")]},
        {"role": "tool", "tool_call_id": "a1B2c3D4e", "content": "noon"},
    ]);
    let text = named("mistral-v0.3").render(&messages, Some(&tools()), true).unwrap();
    assert!(text.contains("\"id\": \"a1B2c3D4e\"}") && text.contains("\"call_id\": \"a1B2c3D4e\"}"), "{text}");
}

#[test]
fn tools_are_told_where_the_template_lets_them() {
    for (name, begins) in [
        ("phi-4-mini", "<|system|>Be kind.<|tool|>[{\"name\": \"switch_lamp\", \"description\": \"on or off\", "),
        ("gemma-3-system", "<s><start_of_turn>user\nBe kind.\n\nYou can call functions."),
        ("phi-3", "<|system|>\nBe kind.\n\nYou can call functions."),
        ("smollm2", "<|im_start|>system\nBe kind.\n\nYou can call functions."),
    ] {
        let messages = json!([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "lamp?"}]);
        let text = named(name).render(&messages, Some(&tools()), true).unwrap();
        assert!(text.starts_with(begins), "{name}: {text}");
    }
    for (name, begins) in [
        ("phi-4-mini", "<|system|><|tool|>[{\"name\": \"switch_lamp\""),
        ("gemma-3", "<s><start_of_turn>user\nYou can call functions."),
        ("mixtral", "<s>[INST] You can call functions."),
        ("smollm2", "<|im_start|>system\nYou can call functions."),
    ] {
        let text = named(name).render(&json!([{"role": "user", "content": "lamp?"}]), Some(&tools()), true).unwrap();
        assert!(text.starts_with(begins) && text.contains("\"switch_lamp\""), "{name}: {text}");
    }
}

#[test]
fn a_template_says_whether_it_has_a_place_for_tools() {
    let without = ["gemma-3", "gemma-3-system", "mixtral", "phi-3", "smollm2"];
    for name in TEMPLATES {
        assert_eq!(named(name).source_for_tools().is_none(), without.contains(&name), "{name}");
    }
}
