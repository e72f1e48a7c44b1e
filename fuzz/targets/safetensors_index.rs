//! A shard index of any bytes: file names that come out stay in their folder.
#![no_main]

use libfuzzer_sys::fuzz_target;
use models::import::safetensors_index;
use std::path::{Component, Path};

fuzz_target!(|input: &[u8]| {
    let Ok(index) = safetensors_index::parse(input) else { return };
    for file in index.values() {
        let mut parts = Path::new(file).components();
        assert!(
            matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)),
            "{file:?} is no plain name"
        );
    }
});
