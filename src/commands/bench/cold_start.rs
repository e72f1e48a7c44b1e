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
use std::{path::Path, thread, time::Duration};

/// Short: each run has to wait for zero.
const IDLE: Duration = Duration::from_millis(200);
/// From an answer to the end of the process: the idle time, and the drain with room to spare.
const GONE_AFTER_MAX: Duration = Duration::from_secs(30);
/// What is asked; a few dozen tokens with the template around it.
const QUESTION: &str = "Write one sentence about a lighthouse that is dark until a ship comes.";
/// The first token is measured; a few more show that the model goes on.
const ANSWER_TOKENS_MAX: u32 = 8;

/// A standby that replaces one that was used is launched a moment after that has become ready, and is there long before this.
const STANDBY_AFTER: Duration = Duration::from_millis(300);

/// The same question from zero and of a model that is there; neither finds its prompt in a cache.
struct Run {
    cold: Chat,
    hot: Chat,
}

/// One number of a run.
type Metric = (&'static str, fn(&Run) -> f64);

/// In the order of a request's way.
const METRICS: [Metric; 8] = [
    ("held_ms", |run| run.cold.timings.wake.held_ms),
    ("launch_ms", |run| run.cold.timings.wake.launch_ms),
    ("restore_ms", |run| run.cold.timings.wake.restore_ms),
    ("prefill_ms", |run| run.cold.timings.prompt_ms),
    ("first_token_ms", |run| run.cold.timings.first_token_ms),
    ("client_first_token_ms", |run| first_token_ms(&run.cold)),
    ("hot_client_first_token_ms", |run| first_token_ms(&run.hot)),
    ("more_than_hot_ms", |run| first_token_ms(&run.cold) - first_token_ms(&run.hot)),
];

/// Measures and prints.
pub fn bench(args: &ColdStart, snapshot: &Path) -> Result<()> {
    let model = check(snapshot)?;
    let runs = measure(&model, snapshot, args)?;
    if args.json { output::json(&report(&model, &runs)) } else { print(&model, &runs) }
}

fn measure(model: &str, snapshot: &Path, args: &ColdStart) -> Result<Vec<Run>> {
    let server = Server::start(&Options { model, snapshot, idle: IDLE, standby: args.standby })?;
    let mut progress = Progress::new();
    let mut runs = Vec::new();
    for run in 1..=args.runs {
        progress.step(&format!("cold start {run} of {}", args.runs));
        if args.standby > 0 {
            thread::sleep(STANDBY_AFTER);
        }
        let ask = || server.chat(model, QUESTION, ANSWER_TOKENS_MAX, &mut |_| Ok(()));
        let (cold, hot) = (ask()?, ask()?);
        let life = server.life(model)?;
        server.wait_until_cold(model, &life, IDLE + GONE_AFTER_MAX)?;
        runs.push(Run { cold, hot });
    }
    drop(progress);
    server.stop()?;
    Ok(runs)
}

fn report(model: &str, runs: &[Run]) -> Value {
    let each: Vec<Value> = runs
        .iter()
        .map(|run| METRICS.iter().map(|(name, of)| ((*name).to_owned(), json!(of(run)))).collect())
        .collect();
    let medians: Value = METRICS.iter().map(|(name, of)| ((*name).to_owned(), spread(runs, *of).json())).collect();
    json!({"model": model, "prompt_tokens": runs.first().map(|run| run.cold.timings.prompt_n), "summary": medians, "runs": each})
}

fn print(model: &str, runs: &[Run]) -> Result<()> {
    let prompt = runs.first().map_or(0, |run| run.cold.timings.prompt_n);
    output::line(format_args!("{model}: {} cold starts, prompt of {prompt} tokens", runs.len()))?;
    output::line(format_args!("{:<28}{:>10}{:>10}{:>10}", "", "median", "least", "most"))?;
    for (name, of) in METRICS {
        let Spread { median, least, most } = spread(runs, of);
        output::line(format_args!("{name:<28}{median:>10.1}{least:>10.1}{most:>10.1}"))?;
    }
    Ok(())
}

fn spread(runs: &[Run], of: fn(&Run) -> f64) -> Spread {
    Spread::of(runs.iter().map(of).collect())
}
