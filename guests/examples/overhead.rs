//! What guests cost: one request through the SDK's redaction guest, and its parts. For SPECIFICATION.md.
//!
//! ```text
//! cargo run --release -p guests --example overhead
//! ```
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench's own part")]

#[path = "../tests/support/mod.rs"]
mod wasm;

use guests::{Bundle, Chain, Host, Scope, Spec};
use std::{sync::Arc, time::Instant};

const ROUNDS: usize = 2000;
const PIECES: usize = 16;

/// The median of so many, in microseconds.
fn median(mut once: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            once();
            begun.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

fn main() {
    let redact = include_bytes!("../../guest-sdk/examples/redact/redact.wasm");
    let begun = Instant::now();
    let host = Host::new().unwrap();
    let engine = begun.elapsed();
    let begun = Instant::now();
    let bundle = Bundle::compile(&host, vec![(Spec::new("redact"), redact.to_vec())]).unwrap();
    let compiled = begun.elapsed();
    let section = bundle.to_bytes();
    let begun = Instant::now();
    let bundle = Bundle::from_bytes(&section).unwrap();
    // SAFETY: compiled just now.
    let plugins = unsafe { bundle.load(&host) }.unwrap();
    let loaded = begun.elapsed();
    let chain = Chain::new(plugins.into_iter().map(Arc::new));
    let whole = median(|| {
        let mut session = chain.begin(Scope::default());
        (0..PIECES).for_each(|_| drop(session.text("a piece of text, ", false).unwrap()));
        session.text("", true).unwrap();
    });
    let mut session = chain.begin(Scope::default());
    session.text("x", false).unwrap();
    let text = median(|| drop(session.text("a word ", false).unwrap()));
    const VOCAB: u32 = 49_152;
    let token = |body: &str| {
        let plugin = host.load(Spec::new("token"), &wasm::token_guest(wasm::FREE, body)).unwrap();
        let mut session = Chain::new([Arc::new(plugin)]).begin(Scope::default());
        session.start(&[1, 2, 3], VOCAB).unwrap();
        median(|| drop(session.next(&[4], VOCAB).unwrap()))
    };
    let words = VOCAB / 32;
    let mask = format!(
        "(i32.store8 (i32.const 4096) (i32.const 6)) (call $say (i32.const 2) (i32.const 4096) (i32.const {words}))"
    );
    println!("on-token: {:.2} us free, {:.2} us with a mask of {VOCAB} tokens", token(wasm::FREE), token(&mask));
    println!(
        "engine {engine:?}, compiled {compiled:?}, loaded from compiled code {loaded:?}, section {} bytes",
        section.len()
    );
    println!("a request (instance, {PIECES} texts, end): {whole:.1} us; one text of a live instance: {text:.2} us");
}
