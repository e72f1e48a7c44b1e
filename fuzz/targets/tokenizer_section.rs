//! A sealed tokenizer of any bytes: an error that says something, or one that encodes and decodes, whatever it says, and ends.
#![no_main]

use libfuzzer_sys::fuzz_target;
use models::Tokenizer;

const TEXT: &str = "Hello, world!  12 é 🚀 <|im_end|>";

fuzz_target!(|input: &[u8]| {
    match Tokenizer::from_section(input.to_vec().into()) {
        Ok(tokenizer) => {
            let ids = tokenizer.encode(TEXT, true).unwrap_or_default();
            let _ = tokenizer.decode(&ids, false);
            ids.iter().for_each(|id| drop(tokenizer.token_bytes(*id)));
        }
        Err(error) => assert!(!error.to_string().is_empty(), "an error that says nothing"),
    }
});
