//! A call, its result and the answer, for each family: what its template is told, what its model writes, what a client sends
//! back, and what the template makes of that. Only the model is played.
#![allow(missing_docs, clippy::unwrap_used)]

use models::{ChatTemplate, Source};
use protocol::parse_chat;
use runtime::tools::{Format, Parser, Reading};
use serde_json::{Value, json};
use std::path::Path;

fn template(name: &str) -> ChatTemplate {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(root.join("tests/golden/llama3-tiny").join(file), folder.path().join(file)).unwrap();
    }
    let text = std::fs::read_to_string(root.join(format!("models/tests/templates/{name}.jinja"))).unwrap();
    let config = json!({"chat_template": text.trim_end(), "bos_token": "<s>", "eos_token": "</s>"});
    std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
    Source::open(folder.path()).unwrap().chat_template().unwrap().unwrap()
}

/// The prompt of a request with these messages, and what to look for in its answer.
fn prompt(template: &ChatTemplate, messages: &[Value]) -> (String, Reading) {
    let tools = json!([{"type": "function", "function": {"name": "switch_lamp", "parameters": {"type": "object"}}}]);
    let body = json!({"model": "m", "messages": messages, "tools": tools});
    let request = parse_chat(body.to_string().as_bytes()).unwrap();
    let tools = request.tools.unwrap();
    let text = template.render(&request.messages, Some(&tools.list), true).unwrap();
    (text, Reading::new(Format::of(template), &tools))
}

fn check(name: &str, format: Format, written: &str) {
    let template = template(name);
    let mut messages = vec![json!({"role": "user", "content": "lamp?"})];
    let (text, reading) = prompt(&template, &messages);
    assert!(text.contains("switch_lamp") && reading.format == format, "{name}: {format:?}: {text}");
    let mut parser = Parser::new(reading, 7);
    let mut parsed = parser.push(written);
    parsed.content += &parser.finish().content;
    let [call] = &parsed.calls[..] else { panic!("{name}: {:?}", parsed.calls) };
    let (id, function) = call.begins.clone().unwrap();
    assert_eq!(
        (&parsed.content[..], &function[..], &call.arguments[..]),
        ("", "switch_lamp", "{\"on\": true}"),
        "{name}"
    );
    // As the client sends it back.
    let call = json!({"id": id, "type": "function", "function": {"name": function, "arguments": call.arguments}});
    messages.push(json!({"role": "assistant", "content": null, "tool_calls": [call]}));
    messages.push(json!({"role": "tool", "tool_call_id": id, "content": "it is on"}));
    let (text, _) = prompt(&template, &messages);
    let (call, result) = (text.find("\"on\": true"), text.find("it is on"));
    assert!(call.is_some() && call < result, "{name}: {text}");
    messages.push(json!({"role": "assistant", "content": "The lamp is on."}));
    messages.push(json!({"role": "user", "content": "thanks"}));
    let (text, _) = prompt(&template, &messages);
    assert!(result.is_some() && text.find("The lamp is on.") < text.find("thanks"), "{name}: {text}");
}

#[test]
fn the_loop_of_call_result_and_answer_closes_for_every_family() {
    let hermes = "<tool_call>\n{\"name\": \"switch_lamp\", \"arguments\": {\"on\": true}}\n</tool_call>";
    let mistral = "[TOOL_CALLS] [{\"name\": \"switch_lamp\", \"arguments\": {\"on\": true}}]";
    let phi = "<|tool_call|>[{\"name\": \"switch_lamp\", \"arguments\": {\"on\": true}}]<|/tool_call|>";
    let json = "{\"name\": \"switch_lamp\", \"parameters\": {\"on\": true}}";
    let fenced = format!("```json\n{json}\n```");
    for (name, format, written) in [
        ("llama-3.1", Format::Json, json),
        ("qwen-2.5", Format::Hermes, hermes),
        ("qwen-3", Format::Hermes, hermes),
        ("mistral-v0.3", Format::Mistral, mistral),
        ("mistral-nemo", Format::Mistral, mistral),
        ("phi-4-mini", Format::Phi, phi),
        ("gemma-3", Format::Json, &fenced),
        ("gemma-3-system", Format::Json, &fenced),
        ("mixtral", Format::Json, json),
        ("phi-3", Format::Json, json),
        ("smollm2", Format::Json, json),
    ] {
        check(name, format, written);
    }
}
