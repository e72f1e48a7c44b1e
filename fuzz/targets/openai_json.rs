//! A request body of any bytes: an answer or an error that is an OpenAI error object, never a panic. And lines in front of events.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::ApiError;

fuzz_target!(|input: &[u8]| {
    check(protocol::peek(input));
    check(protocol::parse_chat(input));
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
