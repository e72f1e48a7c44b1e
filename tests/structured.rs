//! Answers that must have a form: JSON schemas, expressions, grammars, and what is wrong with them.
//!
//! The model's weights are random, so nothing but the form makes its answers valid.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use support::process::run;
use support::{Serve, golden, test_tools};

fn tiny() -> Serve {
    Serve::start(&["--model", &format!("tiny={}", golden("llama3-tiny", "native").display()), "--idle", "60s"])
}

#[test]
fn five_hundred_random_schemas_are_never_broken() {
    let Some(python) = test_tools() else { return };
    let server = tiny();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/structured_client.py");
    let (code, said, errors) =
        run(Command::new(python).arg(script).arg(format!("http://{}/v1", server.api)).arg("tiny"));
    println!("{said}");
    assert_eq!(code, Some(0), "{said}\n{errors}");
    assert!(said.contains("ok structured"), "{said}");
}

fn complete(server: &Serve, more: Value) -> (u16, Value) {
    let mut body = json!({"model": "tiny", "prompt": [5, 9, 12], "max_tokens": 60, "seed": 3});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = server.post("/v1/completions", &body);
    (answer.status, answer.json())
}

#[test]
fn expressions_choices_and_grammars_are_followed_and_seeds_reproduce() {
    let server = tiny();
    for (form, fits) in [
        (json!({"guided_regex": "[ab]{3}-(on|off)"}), (|t| t.len() <= 7 && t.contains('-')) as fn(&str) -> bool),
        (json!({"guided_choice": ["yes", "no", "may\"be"]}), |t| ["yes", "no", "may\"be"].contains(&t)),
        (json!({"grammar": "start: \"lamp \" (\"lit\" | \"dark\")"}), |t| ["lamp lit", "lamp dark"].contains(&t)),
        (json!({"structured_outputs": {"regex": "[0-9]{4}"}}), |t| t.len() == 4 && t.parse::<u32>().is_ok()),
    ] {
        let (status, answer) = complete(&server, form.clone());
        assert_eq!(status, 200, "{answer}");
        let choice = &answer["choices"][0];
        assert!(fits(choice["text"].as_str().unwrap()) && choice["finish_reason"] == "stop", "{form}: {answer}");
        assert_eq!(complete(&server, form).1["choices"], answer["choices"], "the same seed, the same answer");
    }
    let both = json!({"guided_regex": "[a-z]{2}", "n": 3, "logprobs": 1});
    let (_, answer) = complete(&server, both);
    assert_eq!(answer["choices"].as_array().unwrap().len(), 3, "{answer}");
}

#[test]
fn a_form_that_cannot_be_understood_is_a_400_that_names_it() {
    let server = tiny();
    for (form, param) in [
        (json!({"guided_json": {"type": "no such type"}}), "guided_json"),
        (json!({"guided_json": {"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}}}), "guided_json"),
        (json!({"guided_regex": "(unclosed"}), "guided_regex"),
        (json!({"grammar": "start: nothing"}), "grammar"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 7}}}}),
            "response_format.json_schema.schema",
        ),
    ] {
        let (status, answer) = complete(&server, form.clone());
        assert_eq!((status, &answer["error"]["param"]), (400, &json!(param)), "{form}: {answer}");
    }
    assert_eq!(complete(&server, json!({})).0, 200, "and it still serves");
}
