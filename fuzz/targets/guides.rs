//! A form of an answer, of any schema, expression or grammar: understood, or an error that says something, and soon. One that is
//! understood says what may come first.
#![no_main]

use libfuzzer_sys::fuzz_target;
use models::Tokenizer;
use protocol::parse_completion;
use runtime::guide::Guides;
use serde_json::{Value, json};
use std::sync::{Arc, LazyLock};

static GUIDES: LazyLock<Guides> = LazyLock::new(|| {
    let file = include_bytes!("../../tests/golden/llama3-tiny/tokenizer.json");
    let tokenizer = Tokenizer::from_json(file).expect("a golden tokenizer");
    let vocab = tokenizer.vocab_size();
    Guides::new(Arc::new(tokenizer), vocab, Some(0))
});

fuzz_target!(|input: &[u8]| {
    let [kind, form @ ..] = input else { return };
    let text = || Value::from(String::from_utf8_lossy(form));
    let (field, form) = match kind % 3 {
        0 => ("guided_json", serde_json::from_slice(form).unwrap_or_else(|_| text())),
        1 => ("guided_regex", text()),
        _ => ("guided_grammar", text()),
    };
    let asks = !form.is_null();
    let body = json!({"model": "m", "prompt": "p", field: form});
    let Ok(request) = parse_completion(body.to_string().as_bytes()) else { return };
    assert_eq!(request.generate.constraint.is_some(), asks, "null, and nothing else, asks for no form");
    let Some(constraint) = request.generate.constraint else { return };
    match GUIDES.compile(&constraint.form).map(|form| form.guide()) {
        Ok(mut guide) => {
            let _ = guide.next();
        }
        Err(error) => assert!(!error.is_empty(), "an error that says nothing"),
    }
});
