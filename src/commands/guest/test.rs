//! `guest test`: every case in every way, and what each hook takes.

use super::{cases, meter::Meter};
use crate::{
    cli::GuestTest,
    commands::guests as section,
    environment::Environment,
    exit::{Error, Result},
    output,
};
use guests::{Chain, Host, Plugin};
use serde_json::{Value, json};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// Ways of one case that are shown where they fail.
const SHOWN_MAX: usize = 3;

/// One case's outcome.
struct Outcome {
    name: String,
    ways: usize,
    failed: Vec<(String, Value, Value)>,
}

/// Tries all cases; those that fail are told, and the exit code is 65.
pub fn test(args: &GuestTest, environment: &Environment) -> Result<()> {
    let (guest, plugin) = load(&args.guest, environment)?;
    let folder = args.cases.clone().unwrap_or_else(|| guest.parent().unwrap_or(Path::new("")).join("cases"));
    let cases = cases::read(&folder)?;
    let plugin = Arc::new(plugin);
    let mut meter = Meter::default();
    let outcomes: Vec<Outcome> = cases.iter().map(|(file, case)| run(&plugin, file, case, &mut meter)).collect();
    let failed = outcomes.iter().filter(|outcome| !outcome.failed.is_empty()).count();
    match args.json {
        true => output::json(&report(&plugin, &outcomes, &meter))?,
        false => show(&outcomes, &meter)?,
    }
    match failed {
        0 => Ok(()),
        _ => Err(Error::Data(format!("{failed} of {} cases failed", outcomes.len()))),
    }
}

/// A guest, by its folder, its manifest or its component; and which file that is.
pub fn load(guest: &Path, environment: &Environment) -> Result<(PathBuf, Plugin)> {
    let guest = find(guest)?;
    let (spec, component) = section::read(&guest, environment)?;
    let name = spec.name.clone();
    let wrong = |error: guests::LoadError| Error::Data(format!("the guest '{name}': {error}"));
    let host = Host::new().map_err(wrong)?;
    // Large ones take seconds to compile.
    let plugin = match section::cache(environment)? {
        Some(cache) => cache.load(&host, spec, &component),
        None => host.load(spec, &component),
    };
    Ok((guest, plugin.map_err(wrong)?))
}

/// A folder's manifest, a manifest or a component.
fn find(guest: &Path) -> Result<PathBuf> {
    if guest.to_string_lossy().starts_with(store::SCHEME) {
        return Ok(guest.into());
    }
    let file = if guest.is_dir() { guest.join("guest.toml") } else { guest.into() };
    match file.exists() {
        true => Ok(file),
        false => Err(Error::NoFile(file)),
    }
}

fn run(plugin: &Arc<Plugin>, file: &Path, case: &cases::Case, meter: &mut Meter) -> Outcome {
    let tried = case.try_out(&Chain::new([plugin.clone()]), meter);
    let ways = tried.len();
    let failed = tried.into_iter().filter_map(|tried| {
        let (expected, came) = tried.differs?;
        Some((tried.how, expected, came))
    });
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Outcome { name, ways, failed: failed.collect() }
}

fn show(outcomes: &[Outcome], meter: &Meter) -> Result<()> {
    for Outcome { name, ways, failed } in outcomes {
        let verdict = if failed.is_empty() { "ok    " } else { "FAILED" };
        output::line(format_args!("{verdict} {name}: {ways} ways"))?;
        for (how, expected, came) in failed.iter().take(SHOWN_MAX) {
            output::line(format_args!("       {how}\n         expected {expected}\n         came     {came}"))?;
        }
        if failed.len() > SHOWN_MAX {
            output::line(format_args!("       and {} more ways", failed.len() - SHOWN_MAX))?;
        }
    }
    meter.lines().into_iter().try_for_each(output::line)
}

fn report(plugin: &Plugin, outcomes: &[Outcome], meter: &Meter) -> Value {
    let outcome = |outcome: &Outcome| {
        let failed = outcome.failed.iter();
        let failed: Vec<Value> =
            failed.map(|(how, expected, came)| json!({ "how": how, "expected": expected, "came": came })).collect();
        json!({ "case": outcome.name, "ways": outcome.ways, "failed": failed })
    };
    let outcomes: Vec<Value> = outcomes.iter().map(outcome).collect();
    json!({
        "guest": plugin.spec().name, "digest": plugin.digest(), "memory_bytes": plugin.memory_bytes(), "cases": outcomes,
        "hooks": meter.report(),
    })
}
