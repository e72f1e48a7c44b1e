//! A GGUF file of any bytes: the container is parsed, and whatever it lists lies within it; then the file is opened as a
//! model: configuration, tensors, tokenizer and template.
#![no_main]

use libfuzzer_sys::fuzz_target;
use models::import::{Source, gguf};
use rustix::fs::{MemfdFlags, memfd_create};
use std::{fs::File, io::Write, os::fd::AsRawFd};

fuzz_target!(|input: &[u8]| {
    if let Ok(file) = gguf::parse(input) {
        for tensor in &file.tensors {
            assert!(input.get(tensor.range.clone()).is_some(), "{} lies outside the file", tensor.name);
        }
        open(input);
    }
});

/// The importer takes paths and maps what is there.
fn open(bytes: &[u8]) {
    let mut file = File::from(memfd_create("gguf", MemfdFlags::CLOEXEC).expect("memory files are available"));
    file.write_all(bytes).expect("a memory file is written");
    let _ = Source::open(format!("/proc/self/fd/{}", file.as_raw_fd()).as_ref());
}
