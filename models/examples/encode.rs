//! How fast text becomes tokens, beside the tokenizers crate on the same `tokenizer.json`: `encode MODEL.gguf|FOLDER`.
//!
//! Each first text is the first of its process: run it with `ours` or `theirs` behind the model, else both take turns on long texts alone.
#![allow(clippy::unwrap_used)]

use models::{Source, Tokenizer};
use std::{path::Path, time::Instant};

const TEXT: &str =
    "<|im_start|>user\nWrite one sentence about a lighthouse that is dark until a ship comes.<|im_end|>\n";
const LONG: &str = "The lamp of the lighthouse is dark, until a ship comes near; 42 waves don't care. ";
const TIMES: usize = 500;
const TURNS: usize = 9;

fn main() {
    let mut words = std::env::args().skip(1);
    let model = words.next().expect("usage: encode MODEL.gguf|FOLDER [ours|theirs]");
    let source = Source::open(Path::new(&model)).unwrap();
    let json = source.tokenizer_json();
    let section = Tokenizer::seal(json).unwrap();
    let long = LONG.repeat(TIMES);
    let ours = || {
        let tokenizer = Tokenizer::from_section(section.clone().into()).unwrap();
        move |text: &str| tokenizer.encode(text, true).unwrap().len()
    };
    let theirs = || {
        let tokenizer = tokenizers::Tokenizer::from_bytes(json).unwrap();
        move |text: &str| tokenizer.encode_fast(text, true).unwrap().len()
    };
    match words.next().as_deref() {
        Some("ours") => first("ours", ours()),
        Some("theirs") => first("theirs", theirs()),
        _ => {
            let (ours, theirs) = (ours(), theirs());
            assert_eq!(ours(&long), theirs(&long));
            let mut took: Vec<[f64; 2]> = (0..TURNS).map(|_| [time(|| ours(&long)), time(|| theirs(&long))]).collect();
            let median = |took: &mut Vec<[f64; 2]>, which: usize| {
                took.sort_by(|a, b| a[which].total_cmp(&b[which]));
                took[TURNS / 2][which]
            };
            let (ours, theirs) = (median(&mut took, 0), median(&mut took, 1));
            println!(
                "{} bytes: ours {ours:.2} ms, theirs {theirs:.2} ms, {:.1} times as fast",
                long.len(),
                theirs / ours
            );
        }
    }
}

fn first(whose: &str, encode: impl Fn(&str) -> usize) {
    println!("first text, {whose}: {:.3} ms", time(|| encode(TEXT)));
    println!("second text, {whose}: {:.3} ms", time(|| encode(TEXT)));
}

fn time(work: impl Fn() -> usize) -> f64 {
    let start = Instant::now();
    std::hint::black_box(work());
    start.elapsed().as_secs_f64() * 1e3
}
