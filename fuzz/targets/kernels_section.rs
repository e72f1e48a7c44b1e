//! A section of compiled kernels of any bytes: an error that says something, or one that is written as it was read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use models::KernelBundle;

fuzz_target!(|input: &[u8]| {
    match KernelBundle::from_section(input) {
        Ok(bundle) => {
            let section = bundle.to_section().expect("what was read can be written");
            assert_eq!(KernelBundle::from_section(&section).ok(), Some(bundle));
        }
        Err(error) => assert!(!error.to_string().is_empty(), "an error that says nothing"),
    }
});
