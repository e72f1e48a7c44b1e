//! `bench restore`: a snapshot from its file to a model whose bytes are all verified, beside how fast file and memory are read.
//!
//! Restore and limit take turns, from a page cache that has the file and from one that has none of it. Of the restore the median
//! counts, of the limits the best pass. What is warm is set against how fast memory is read, or an encrypted file against how fast it could be decrypted
//! in the processor's caches. **Absent:** process, HTTP, the first token (`bench cold-start`).

use super::spread::Spread;
use crate::{
    cli::Restore,
    commands::{encrypted, operator_key},
    exit::{Error, Result},
    measure, output,
    progress::Progress,
};
use kernels::limits::Memory;
use models::{Encoder, Model, ModelConfig};
use rustix::fs::{Advice, fadvise};
use serde_json::{Value, json};
use snapshot::{OperatorKey, Room, Snapshot};
use std::{fs::File, hint::black_box, path::Path, thread, time::Instant};

/// Threads that verify, as in a runtime.
const VERIFY_THREADS_MAX: usize = 8;

/// Milliseconds from the beginning.
struct Spans {
    open: f64,
    model: f64,
    verified: f64,
}

/// Runs of one kind, and what the limit was beside each.
#[derive(Default)]
struct Runs {
    spans: Vec<Spans>,
    limits: Vec<f64>,
}

/// Measures and prints.
pub fn bench(args: &Restore, file: &Path) -> Result<()> {
    if !file.exists() {
        return Err(Error::NoFile(file.into()));
    }
    let how = How { key: operator_key(args.decrypt_key.as_deref())?, ready_bytes: args.ready_memory };
    let limit = Limit::new(how.key.is_some());
    let (mut warm, mut cold) = (Runs::default(), Runs::default());
    let mut progress = Progress::new();
    progress.step("warming");
    let bytes = read_through(file)?;
    limit.measure(file)?;
    restore(file, &how)?;
    for run in 1..=args.runs {
        progress.step(&format!("run {run} of {}", args.runs));
        cold.limits.push(measured(file, measure::file_read(file))?);
        forget(file)?;
        cold.spans.push(restore(file, &how)?);
        warm.spans.push(restore(file, &how)?);
        warm.limits.push(limit.measure(file)?);
    }
    drop(progress);
    let report = json!({
        "file_bytes": bytes,
        "runs": args.runs,
        "threads": threads(),
        "ready_bytes": how.ready_bytes,
        "page_cache_warm": warm.report(bytes, limit.name()),
        "page_cache_cold": cold.report(bytes, "file_read_bytes_per_second"),
    });
    if args.json { output::json(&report) } else { print(&report, &limit) }
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(VERIFY_THREADS_MAX)
}

/// How it is opened.
struct How {
    /// Of an encrypted snapshot.
    key: Option<OperatorKey>,
    /// Memory that is there before.
    ready_bytes: u64,
}

/// What a restore from memory is set against.
enum Limit {
    Memory(Memory),
    Decryption,
}

impl Limit {
    fn new(is_encrypted: bool) -> Self {
        if is_encrypted { Self::Decryption } else { Self::Memory(measure::memory()) }
    }

    fn measure(&self, file: &Path) -> Result<f64> {
        match self {
            Self::Memory(memory) => Ok(memory.read()),
            Self::Decryption => {
                let named = |source| Error::SnapshotFile { path: file.into(), source };
                snapshot::decryption_rate(threads()).map_err(named)
            }
        }
    }

    /// In the report.
    fn name(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory_read_bytes_per_second",
            Self::Decryption => "decryption_bytes_per_second",
        }
    }

    /// For people.
    fn words(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory read",
            Self::Decryption => "decryption in the caches",
        }
    }
}

/// Memory as a standby has it.
fn ready(bytes: u64) -> std::result::Result<Room, snapshot::Error> {
    let mut room = Room::huge(bytes)?;
    room.make_ready(0..bytes)?;
    Ok(room)
}

fn restore(file: &Path, how: &How) -> Result<Spans> {
    let named = |source| Error::SnapshotFile { path: file.into(), source };
    let room = (how.ready_bytes > 0).then(|| ready(how.ready_bytes)).transpose().map_err(named)?;
    let begun = Instant::now();
    let millis = || begun.elapsed().as_secs_f64() * 1e3;
    let snapshot = match &how.key {
        Some(key) => encrypted::open(file, key, room)?,
        None => Snapshot::open(file).map_err(named)?,
    };
    let open = millis();
    let verification = snapshot.verify_in_background(threads());
    if ModelConfig::from_snapshot(&snapshot)?.variant.encoder.is_some() {
        black_box(Encoder::restore(&snapshot)?);
    } else {
        black_box(Model::restore(&snapshot)?);
    }
    let model = millis();
    if verification.wait().is_err() {
        // Which says what is wrong as an error of its own.
        snapshot.verify_all(&mut |_, _| {}).map_err(named)?;
    }
    Ok(Spans { open, model, verified: millis() })
}

/// Into the page cache; how many bytes.
fn read_through(file: &Path) -> Result<u64> {
    measured(file, File::open(file).and_then(|mut open| std::io::copy(&mut open, &mut std::io::sink())))
}

/// Out of the page cache, as far as nobody else has it mapped.
fn forget(file: &Path) -> Result<()> {
    let forgotten = File::open(file).and_then(|open| Ok(fadvise(&open, 0, None, Advice::DontNeed)?));
    measured(file, forgotten)
}

fn measured<T>(file: &Path, result: std::io::Result<T>) -> Result<T> {
    result.map_err(|error| Error::file(format!("reading {}", file.display()), error))
}

impl Runs {
    fn report(&self, bytes: u64, limit: &str) -> Value {
        let spread = |of: fn(&Spans) -> f64| Spread::of(self.spans.iter().map(of).collect());
        let (verified, limits) = (spread(|spans| spans.verified), Spread::of(self.limits.clone()));
        let rate = bytes as f64 / verified.median * 1e3;
        json!({
            "open_ms": spread(|spans| spans.open).json(),
            "model_ms": spread(|spans| spans.model).json(),
            "verified_ms": verified.json(),
            "bytes_per_second": rate,
            limit: limits.json(),
            "fraction_of_limit": rate / limits.most,
        })
    }
}

fn print(report: &Value, limit: &Limit) -> Result<()> {
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let bytes = output::bytes(report["file_bytes"].as_u64().unwrap_or_default());
    output::line(format_args!("{bytes}, {} runs, {} threads verify", report["runs"], report["threads"]))?;
    for (key, name, limit, of) in [
        ("page_cache_warm", "page cache warm", limit.name(), limit.words()),
        ("page_cache_cold", "page cache cold", "file_read_bytes_per_second", "file read past the page cache"),
    ] {
        let part = &report[key];
        output::line(format_args!("{name}{:>31}{:>10}{:>10}", "median", "least", "most"))?;
        for span in ["open_ms", "model_ms", "verified_ms"] {
            let value = |which: &str| number(&part[span][which]);
            let (median, least, most) = (value("median"), value("min"), value("max"));
            output::line(format_args!("  {span:<34}{median:>10.1}{least:>10.1}{most:>10.1}"))?;
        }
        let (rate, best) = (number(&part["bytes_per_second"]) / 1e9, number(&part[limit]["max"]) / 1e9);
        let fraction = 100.0 * number(&part["fraction_of_limit"]);
        output::line(format_args!("  {rate:.2} GB/s, {fraction:.0} % of the limit ({of}: {best:.2} GB/s)"))?;
    }
    Ok(())
}
