//! `guest test`: every case in every way, and what each hook takes.

use super::cases;
use crate::{
    cli::GuestTest,
    commands::guests as section,
    exit::{Error, Result},
    output,
};
use guests::{Chain, Host, Plugin, Scope};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

/// Ways of one case that are shown where they fail.
const SHOWN_MAX: usize = 3;

/// One case's outcome.
struct Outcome {
    name: String,
    ways: usize,
    microseconds: f64,
    failed: Vec<(String, Value, Value)>,
}

/// Tries all cases; those that fail are told, and the exit code is 65.
pub fn test(args: &GuestTest) -> Result<()> {
    let guest = find(&args.guest)?;
    let folder = args.cases.clone().unwrap_or_else(|| guest.parent().unwrap_or(Path::new("")).join("cases"));
    let cases = cases::read(&folder)?;
    let (spec, component) = section::read(&guest)?;
    let name = spec.name.clone();
    let wrong = |error: guests::LoadError| Error::Data(format!("the guest '{name}': {error}"));
    let plugin = Arc::new(Host::new().and_then(|host| host.load(spec, &component)).map_err(wrong)?);
    let outcomes: Vec<Outcome> = cases.iter().map(|(file, case)| run(&plugin, file, case)).collect();
    let failed = outcomes.iter().filter(|outcome| !outcome.failed.is_empty()).count();
    match args.json {
        true => output::json(&report(&plugin, &outcomes))?,
        false => show(&plugin, &outcomes)?,
    }
    match failed {
        0 => Ok(()),
        _ => Err(Error::Data(format!("{failed} of {} cases failed", outcomes.len()))),
    }
}

/// A folder's manifest, a manifest or a component.
fn find(guest: &Path) -> Result<PathBuf> {
    let file = if guest.is_dir() { guest.join("guest.toml") } else { guest.into() };
    match file.exists() {
        true => Ok(file),
        false => Err(Error::NoFile(file)),
    }
}

fn run(plugin: &Arc<Plugin>, file: &Path, case: &cases::Case) -> Outcome {
    let chain = Chain::new([plugin.clone()]);
    let begun = Instant::now();
    let tried = case.try_out(|| chain.begin(Scope::default()));
    let microseconds = begun.elapsed().as_secs_f64() * 1e6 / tried.len().max(1) as f64;
    let ways = tried.len();
    let failed = tried.into_iter().filter_map(|tried| {
        let (expected, came) = tried.differs?;
        Some((tried.how, expected, came))
    });
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Outcome { name, ways, microseconds, failed: failed.collect() }
}

fn show(plugin: &Plugin, outcomes: &[Outcome]) -> Result<()> {
    for Outcome { name, ways, microseconds, failed } in outcomes {
        let verdict = if failed.is_empty() { "ok    " } else { "FAILED" };
        output::line(format_args!("{verdict} {name}: {ways} ways, {microseconds:.1} us each with a new instance"))?;
        for (how, expected, came) in failed.iter().take(SHOWN_MAX) {
            output::line(format_args!("       {how}\n         expected {expected}\n         came     {came}"))?;
        }
        if failed.len() > SHOWN_MAX {
            output::line(format_args!("       and {} more ways", failed.len() - SHOWN_MAX))?;
        }
    }
    let memory = plugin.memory_bytes() / 1024;
    output::line(format_args!("{}: {memory} KiB of memory for each instance", plugin.spec().name))
}

fn report(plugin: &Plugin, outcomes: &[Outcome]) -> Value {
    let outcome = |outcome: &Outcome| {
        let failed = outcome.failed.iter();
        let failed: Vec<Value> =
            failed.map(|(how, expected, came)| json!({ "how": how, "expected": expected, "came": came })).collect();
        json!({ "case": outcome.name, "ways": outcome.ways, "us": outcome.microseconds, "failed": failed })
    };
    let outcomes: Vec<Value> = outcomes.iter().map(outcome).collect();
    json!({
        "guest": plugin.spec().name, "digest": plugin.digest(), "memory_bytes": plugin.memory_bytes(), "cases": outcomes,
    })
}
