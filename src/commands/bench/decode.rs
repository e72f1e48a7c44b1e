//! `bench decode`: token after token, beside how fast memory is read.
//!
//! Model and memory take turns. Of the model the median counts, of memory the best pass: it is a limit, and whatever else the
//! machine does can only hide it.

use super::{
    alone::{Alone, print_head},
    spread::Spread,
};
use crate::{cli::Decode, exit::Result, measure, output, progress::Progress};
use serde_json::{Value, json};
use std::path::Path;

/// Before the tokens that are measured.
const PROMPT_TOKENS: usize = 16;
/// Passes through memory after each run of the model.
const PASSES: usize = 2;

/// Measures and prints.
pub fn bench(args: &Decode, snapshot: &Path) -> Result<()> {
    let tokens = args.tokens as usize;
    let mut alone = Alone::restore(snapshot, &args.alone, PROMPT_TOKENS + tokens)?;
    let report = report(args, &mut alone);
    if args.alone.json { output::json(&report) } else { print(&report, args) }
}

fn report(args: &Decode, alone: &mut Alone) -> Value {
    let tokens = args.tokens as usize;
    let memory = measure::memory();
    let mut progress = Progress::new();
    progress.step("warming");
    alone.prefill(0, PROMPT_TOKENS);
    alone.decode(PROMPT_TOKENS, tokens);
    memory.read();
    let (mut rates, mut passes) = (Vec::new(), Vec::new());
    for run in 1..=args.alone.runs {
        progress.step(&format!("run {run} of {}", args.alone.runs));
        rates.push(tokens as f64 / alone.decode(PROMPT_TOKENS, tokens).as_secs_f64());
        passes.extend((0..PASSES).map(|_| memory.read()));
    }
    drop(progress);
    let (speed, memory) = (Spread::of(rates), Spread::of(passes));
    let kv_bytes = (0..tokens).map(|i| alone.cost.kv_bytes(PROMPT_TOKENS + i)).sum::<f64>() / tokens as f64;
    let bytes = alone.cost.weight_bytes() + kv_bytes;
    let mut report = alone.facts();
    let measured = json!({
        "runs": args.alone.runs,
        "prompt_tokens": PROMPT_TOKENS,
        "tokens": tokens,
        "tokens_per_second": speed.json(),
        "bytes_per_token": {"weights": alone.cost.weight_bytes(), "keys_and_values": kv_bytes, "total": bytes},
        "bytes_read_per_second": bytes * speed.median,
        "memory_read_bytes_per_second": memory.json(),
        "fraction_of_memory": bytes * speed.median / memory.most,
        "cache_bytes": measure::cache_bytes(),
    });
    report.extend(measured.as_object().cloned().unwrap_or_default());
    Value::Object(report)
}

fn print(report: &Value, args: &Decode) -> Result<()> {
    print_head(report, &format!("{} runs of {} tokens", args.alone.runs, args.tokens))?;
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let speed = &report["tokens_per_second"];
    let (median, least, most) = (number(&speed["median"]), number(&speed["min"]), number(&speed["max"]));
    let bytes = |key: &str| output::bytes(number(&report["bytes_per_token"][key]) as u64);
    let fraction = number(&report["fraction_of_memory"]);
    let rows = [
        ("tokens/s", format!("{median:.1} (median; {least:.1} to {most:.1})")),
        (
            "bytes/token",
            format!("{}: weights {}, keys and values {}", bytes("total"), bytes("weights"), bytes("keys_and_values")),
        ),
        ("bytes read", format!("{:.2} GB/s", number(&report["bytes_read_per_second"]) / 1e9)),
        (
            "memory read",
            format!("{:.2} GB/s (best pass)", number(&report["memory_read_bytes_per_second"]["max"]) / 1e9),
        ),
        ("of the limit", format!("{:.0} %", 100.0 * fraction)),
    ];
    for (name, value) in rows {
        output::line(format_args!("{name:<14} {value}"))?;
    }
    if number(&report["bytes_per_token"]["total"]) <= number(&report["cache_bytes"]) {
        output::line("The model fits the processor's caches: memory is not its limit.")?;
    }
    Ok(())
}
