//! What callers show and operators hand in: API keys and their hashes, tokens, documents of keys, and audits. The first byte says which.
#![no_main]

use activator::{
    audit,
    tenants::{
        jwt,
        key::{KeyHash, Keys},
    },
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((what, bytes)) = bytes.split_first() else { return };
    let text = String::from_utf8_lossy(bytes);
    match what % 4 {
        0 => {
            if let Ok(hash) = text.parse::<KeyHash>() {
                assert_eq!(hash.to_string(), text, "one hash is written in one way");
                let mut keys = Keys::default();
                keys.add(hash, ());
                assert!(keys.find(&text).is_none(), "a hash is no key");
            }
        }
        1 => drop(jwt::issuer(&text)),
        2 => drop(jwt::parse_keys(bytes)),
        _ => drop(audit::verify_lines(bytes)),
    }
});
