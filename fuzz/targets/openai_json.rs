//! A request body of any bytes: an answer or an error that is an OpenAI error object, never a panic. And lines in front of events.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::ApiError;

fuzz_target!(|input: &[u8]| {
    check(protocol::peek(input));
    let chat = protocol::parse_chat(input);
    if let Some(seen) = protocol::glance_chat(input) {
        let read = &chat.as_ref().expect("what is seen at a glance is read").generate;
        assert_eq!((seen.model.as_ref(), seen.stream, seen.has_seed), (&*read.model, read.stream, read.seed.is_some()));
    }
    check(chat);
    check(protocol::parse_completion(input));
    check(protocol::parse_embeddings(input));
    check(protocol::parse_tokenize(input));
    check(protocol::parse_detokenize(input));
    let mut trail = protocol::resume::Trail::default();
    for line in input.split(|byte| *byte == b'\n') {
        let said = trail.take(line);
        assert!(!line.starts_with(b"data: ") || said == Ok(protocol::resume::Line::Other), "an event's data is no mark");
    }
});

fn check<T>(parsed: Result<T, ApiError>) {
    if let Err(error) = parsed {
        assert!(error.status().is_client_error(), "a request's fault has the status {}", error.status());
        assert!(!error.message.is_empty() && error.to_json().contains("\"error\""), "an error that says nothing");
    }
}
