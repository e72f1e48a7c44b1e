//! A request body of any bytes: an answer or an error that is an OpenAI error object, never a panic.
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
});

fn check<T>(parsed: Result<T, ApiError>) {
    if let Err(error) = parsed {
        assert!(error.status().is_client_error(), "a request's fault has the status {}", error.status());
        assert!(!error.message.is_empty() && error.to_json().contains("\"error\""), "an error that says nothing");
    }
}
