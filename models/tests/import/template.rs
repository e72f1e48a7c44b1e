//! Chat templates, as transformers renders them.

use crate::support;
use models::{ChatTemplate, Error, Source, Tokenizer};
use serde_json::{Value as Json, json};

/// A small folder with this `tokenizer_config.json`.
pub fn template(config: Json) -> Result<Option<ChatTemplate>, Error> {
    let folder = tempfile::tempdir().unwrap();
    support::llama::Llama::default().folder(folder.path());
    support::huggingface::write_json(folder.path(), "tokenizer_config.json", &config);
    Source::open(folder.path())?.chat_template()
}

fn check(text: &str, messages: Json, expected: &str) {
    let template = template(json!({"chat_template": text, "bos_token": "<s>", "eos_token": {"content": "</s>"}}));
    let rendered = template.unwrap().unwrap().render(&messages, None, true).unwrap();
    assert_eq!(rendered, expected, "{text}");
}

#[test]
fn smollm2_prompts_are_exact() {
    let Some(file) = support::smollm2() else { return };
    let source = Source::open(&file).unwrap();
    let template = source.chat_template().unwrap().unwrap();
    let tokenizer = Tokenizer::from_json(source.tokenizer_json()).unwrap();
    for case in support::golden_json("smollm2.json")["cases"].as_array().unwrap() {
        let messages = json!([{"role": "user", "content": case["user"]}]);
        let rendered = template.render(&messages, None, true).unwrap();
        assert_eq!(rendered, case["rendered"].as_str().unwrap());
        let ids = tokenizer.encode(&rendered, false).unwrap();
        assert_eq!(json!(ids), case["prompt_ids"]);
        let parts = json!([{"role": "user", "content": [{"type": "text", "text": case["user"]}]}]);
        assert_eq!(template.render(&parts, None, true).unwrap(), rendered);
    }
}

#[test]
fn llama3_tiny_renders_with_its_special_tokens() {
    let template = Source::open(&support::golden("llama3-tiny")).unwrap().chat_template().unwrap().unwrap();
    let messages = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]);
    assert_eq!(template.render(&messages, None, true).unwrap(), "<|bos|><|user|>hi<|assistant|>yo<|assistant|>");
    assert_eq!(template.render(&messages, None, false).unwrap(), "<|bos|><|user|>hi<|assistant|>yo");
}

/// Expected texts were rendered by transformers' environment (Jinja2).
#[test]
fn what_templates_use_works() {
    let hi = json!([{"role": "user", "content": " hi "}]);
    check("{{ bos_token }}{{ messages[0].content.strip() }}{{ eos_token }}", hi.clone(), "<s>hi</s>");
    check(
        "{%- for m in messages %}\n  {% if loop.last %}\n{{ m['role'] | upper }}\n  {% endif %}\n{%- endfor %}\n",
        hi.clone(),
        "USER\n",
    );
    check("{% for m in messages %}{% if m.role != 'x' %}{% continue %}{% endif %}x{% endfor %}.", hi.clone(), ".");
    check("{% generation %}a{% endgeneration %}{%- generation -%} b {%- endgeneration -%} c", hi.clone(), "abc");
    check(
        "{% set ns = namespace(n=1) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
        hi.clone(),
        "2",
    );
    check("{{ messages[0].content.split('h')[1].rstrip() ~ messages|length }}", hi.clone(), "i1");
    check("{{ messages[0].items()|list|length }}{{ none is none }}{{ tools is none }}", hi.clone(), "2TrueTrue");
    check(
        "{% if tools is defined and tools %}t{% endif %}{{ missing if missing is defined else 'd' }}",
        hi.clone(),
        "d",
    );
    check(
        "{{ 1.0 }} {{ 3/2 }} {{ none }} {{ [1,'a',none,true] }} {{ {'a': 'b'} }}",
        hi.clone(),
        "1.0 1.5 None [1, 'a', None, True] {'a': 'b'}",
    );
    check(
        "{{ missing }}|{{ messages[0].nothing }}|{{ messages | map(attribute='role') | join(',') }}",
        hi.clone(),
        "||user",
    );
    check(
        "{{ 'x' in 'xyz' }}|{{ messages[-1].role }}|{{ messages[0:1]|length }}|{{ 'abc'[::-1] }}|{{ 7 // 2 }}",
        hi.clone(),
        "True|user|1|cba|3",
    );
    check("{{ '%s-%d'|format('a', 3) }}{{ true|string ~ 1 }}", hi.clone(), "a-3True1");
    check("{{ strftime_now('%Y')|int > 2000 }}", hi.clone(), "True");
    check("{% macro date() %}{{ strftime_now('%Y') }}{% endmacro %}{{ date()|int > 2000 }}", hi, "True");
}

#[test]
fn tools_and_calls_reach_the_template_as_objects() {
    let text =
        "{% for t in tools %}{{ t | tojson }}{% endfor %}{{ messages[0].tool_calls[0].function.arguments.city }}";
    let template = template(json!({"chat_template": text})).unwrap().unwrap();
    let call = json!({"function": {"name": "f", "arguments": "{\"city\": \"東京\"}"}});
    let messages = json!([{"role": "assistant", "content": null, "tool_calls": [call]}]);
    let tools = json!([{"type": "function", "n": 1.0}]);
    let rendered = template.render(&messages, Some(&tools), false).unwrap();
    assert_eq!(rendered, "{\"type\": \"function\", \"n\": 1.0}東京");
}

#[test]
fn named_templates_are_chosen_as_transformers_chooses() {
    let named = json!([{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "{{ tools }}"}]);
    let template = template(json!({"chat_template": named})).unwrap().unwrap();
    assert_eq!(template.render(&json!([]), None, true).unwrap(), "plain");
    assert_eq!(template.render(&json!([]), Some(&json!([])), true).unwrap(), "[]");
}

#[test]
fn a_template_file_wins_and_a_model_may_have_none() {
    let folder = tempfile::tempdir().unwrap();
    support::llama::Llama::default().folder(folder.path());
    assert!(Source::open(folder.path()).unwrap().chat_template().unwrap().is_none());
    support::huggingface::write_json(folder.path(), "tokenizer_config.json", &json!({"chat_template": "config"}));
    std::fs::write(folder.path().join("chat_template.jinja"), "file").unwrap();
    let template = Source::open(folder.path()).unwrap().chat_template().unwrap().unwrap();
    assert_eq!(template.render(&json!([]), None, true).unwrap(), "file");
}

#[test]
fn what_a_template_raises_is_the_error() {
    let template =
        template(json!({"chat_template": "{{ raise_exception('roles must alternate') }}"})).unwrap().unwrap();
    let error = template.render(&json!([]), None, true).unwrap_err().to_string();
    assert!(error.contains("roles must alternate"), "{error}");
}

#[test]
fn hostile_templates_end() {
    for text in [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% for a in range(999) %}{{ 'x' * 1000000 }}{% endfor %}",
    ] {
        let template = template(json!({"chat_template": text})).unwrap().unwrap();
        assert!(template.render(&json!([]), None, true).is_err(), "{text}");
    }
}

#[test]
fn wrong_templates_and_messages_are_errors() {
    let error = template(json!({"chat_template": "{% if %}"})).unwrap_err();
    assert!(matches!(error, Error::BadModel(_)), "{error}");
    assert!(matches!(template(json!({"chat_template": 7})), Err(Error::BadModel(_))));
    let template = template(json!({"chat_template": "x"})).unwrap().unwrap();
    let image = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]);
    let error = template.render(&image, None, true).unwrap_err();
    assert!(matches!(&error, Error::Unsupported(reason) if reason.contains("image_url")), "{error}");
}
