//! `demo`: the whole way, once from zero, once hot, and back to zero.

use super::{pull, seal, serve::preferred};
use crate::{
    cli::{Demo, Weights},
    client::{Chat, Options, Server},
    environment::Environment,
    exit::Result,
    output, timeline,
};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use store::Store;

/// Long enough to ask twice, short enough to watch.
const IDLE: Duration = Duration::from_secs(3);
/// From the last answer to the end of the process: the idle time, and the drain with room to spare.
const GONE_AFTER_MAX: Duration = Duration::from_secs(30);
/// Tokens of the answer at most.
const ANSWER_TOKENS_MAX: u32 = 160;
/// Tokens of the hot answer, which is asked for its timing alone.
const HOT_TOKENS_MAX: u32 = 24;

/// Asks, draws, waits for zero.
pub fn demo(args: &Demo, environment: &Environment) -> Result<()> {
    let snapshot = ready_snapshot(&args.model, environment)?;
    show(&args.model, &snapshot, &args.question)
}

/// The snapshot of a model, pulled and sealed where that is still to be done.
pub fn ready_snapshot(model: &str, environment: &Environment) -> Result<PathBuf> {
    let store = Store::open(&environment.store()?)?;
    let entry = match store.get(model)? {
        Some(entry) => entry,
        None => pull::fetch(&store, model, None)?,
    };
    if let Some(snapshot) = preferred(&store, &entry) {
        return Ok(snapshot);
    }
    let job = seal::Job::of_entry(&store, &entry, Weights::Native);
    job.run()?;
    Ok(job.out)
}

fn show(model: &str, snapshot: &Path, question: &str) -> Result<()> {
    let server = Server::start(&Options { model, snapshot, idle: IDLE, standby: 0 })?;
    output::note(format_args!("serving {model} on http://{}; no runtime process exists", server.api));
    output::note(format_args!("asking: {question}\n"));
    let cold = server.chat(model, question, ANSWER_TOKENS_MAX, &mut output::piece)?;
    output::line("")?;
    let life = server.life(model)?;
    let hot = server.chat(model, question, HOT_TOKENS_MAX, &mut |_| Ok(()))?;
    let answered = Instant::now();
    draw(&cold, &hot);
    output::note(format_args!("\nwaiting for {IDLE:?} without a request …"));
    server.wait_until_cold(model, &life, IDLE + GONE_AFTER_MAX)?;
    let after = answered.elapsed().as_secs_f64();
    output::note(format_args!(
        "back to zero {after:.1} s after the last answer: process {} is gone, the slot is cold",
        life.pid
    ));
    server.stop()
}

fn draw(cold: &Chat, hot: &Chat) {
    let scale = timeline::first_token_ms(cold).max(timeline::first_token_ms(hot));
    let first = timeline::draw("\nfirst request, from zero", cold, scale);
    let second = timeline::draw("second request, hot", hot, scale);
    first.iter().chain(&second).for_each(output::note);
}
