//! `bench cold-start`: from no process to the first token, over HTTP, again and again.

use super::spread::Spread;
use crate::{
    cli::ColdStart,
    client::{Chat, Options, Server},
    commands::serve::check,
    exit::Result,
    output,
    progress::Progress,
    timeline::first_token_ms,
};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

/// Short: each run has to wait for zero.
const IDLE: Duration = Duration::from_millis(200);
/// From an answer to the end of the process: the idle time, and the drain with room to spare.
const GONE_AFTER_MAX: Duration = Duration::from_secs(30);
/// What is asked; a few dozen tokens with the template around it.
const QUESTION: &str = "Write one sentence about a lighthouse that is dark until a ship comes.";
/// The first token is measured; a few more show that the model goes on.
const ANSWER_TOKENS_MAX: u32 = 8;

/// One number of a run.
type Metric = (&'static str, fn(&Chat) -> f64);

/// In the order of a request's way.
const METRICS: [Metric; 6] = [
    ("held_ms", |chat| chat.timings.wake.held_ms),
    ("launch_ms", |chat| chat.timings.wake.launch_ms),
    ("restore_ms", |chat| chat.timings.wake.restore_ms),
    ("prefill_ms", |chat| chat.timings.prompt_ms),
    ("first_token_ms", |chat| chat.timings.first_token_ms),
    ("client_first_token_ms", first_token_ms),
];

/// Measures and prints.
pub fn bench(args: &ColdStart, snapshot: &Path) -> Result<()> {
    let model = check(snapshot)?;
    let chats = measure(&model, snapshot, args)?;
    if args.json { output::json(&report(&model, &chats)) } else { print(&model, &chats) }
}

fn measure(model: &str, snapshot: &Path, args: &ColdStart) -> Result<Vec<Chat>> {
    let server = Server::start(&Options { model, snapshot, idle: IDLE })?;
    let mut progress = Progress::new();
    let mut chats = Vec::new();
    for run in 1..=args.runs {
        progress.step(&format!("cold start {run} of {}", args.runs));
        let chat = server.chat(model, QUESTION, ANSWER_TOKENS_MAX, &mut |_| Ok(()))?;
        let life = server.life(model)?;
        server.wait_until_cold(model, &life, IDLE + GONE_AFTER_MAX)?;
        chats.push(chat);
    }
    drop(progress);
    server.stop()?;
    Ok(chats)
}

fn report(model: &str, chats: &[Chat]) -> Value {
    let runs: Vec<Value> = chats
        .iter()
        .map(|chat| METRICS.iter().map(|(name, of)| ((*name).to_owned(), json!(of(chat)))).collect())
        .collect();
    let medians: Value = METRICS.iter().map(|(name, of)| ((*name).to_owned(), spread(chats, *of).json())).collect();
    json!({"model": model, "prompt_tokens": chats.first().map(|chat| chat.timings.prompt_n), "summary": medians, "runs": runs})
}

fn print(model: &str, chats: &[Chat]) -> Result<()> {
    let prompt = chats.first().map_or(0, |chat| chat.timings.prompt_n);
    output::line(format_args!("{model}: {} cold starts, prompt of {prompt} tokens", chats.len()))?;
    output::line(format_args!("{:<24}{:>10}{:>10}{:>10}", "", "median", "least", "most"))?;
    for (name, of) in METRICS {
        let Spread { median, least, most } = spread(chats, of);
        output::line(format_args!("{name:<24}{median:>10.1}{least:>10.1}{most:>10.1}"))?;
    }
    Ok(())
}

fn spread(chats: &[Chat], of: fn(&Chat) -> f64) -> Spread {
    Spread::of(chats.iter().map(of).collect())
}
