//! `inspect`: what a snapshot holds, and whether every byte of it is what was sealed.

use crate::{
    cli::Inspect,
    commands::{encrypted, operator_key},
    exit::{Error, Result},
    output,
    progress::Progress,
};
use serde_json::{Value, json};
use snapshot::{SectionKind, Snapshot};
use std::{path::Path, sync::Arc};

/// Prints the snapshot's contents; with `--verify` after having read all of it.
pub fn inspect(args: &Inspect) -> Result<()> {
    if !args.file.exists() {
        return Err(Error::NoFile(args.file.clone()));
    }
    let named = |source| Error::SnapshotFile { path: args.file.clone(), source };
    let snapshot = open(args)?;
    if args.verify {
        verify(&snapshot, &args.file).map_err(named)?;
    }
    let facts = facts(&snapshot, args).map_err(named)?;
    if args.json { output::json(&facts) } else { print(&facts) }
}

/// The snapshot, or, where its key is given, what an encrypted one holds.
fn open(args: &Inspect) -> Result<Arc<Snapshot>> {
    match operator_key(args.decrypt_key.as_deref())? {
        Some(operator) => encrypted::open(&args.file, &operator, None),
        None => Snapshot::open(&args.file).map_err(|source| Error::SnapshotFile { path: args.file.clone(), source }),
    }
}

fn verify(snapshot: &Snapshot, file: &Path) -> std::result::Result<(), snapshot::Error> {
    let step = format!("verifying {}", file.display());
    let mut progress = Progress::new();
    snapshot.verify_all(&mut |done, total| progress.at(&step, done, Some(total)))?;
    progress.done("every byte verified");
    Ok(())
}

fn facts(snapshot: &Snapshot, args: &Inspect) -> std::result::Result<Value, snapshot::Error> {
    let tensors = snapshot.tensors();
    let weight_bytes: u64 = tensors.iter().map(|tensor| tensor.bytes).sum();
    Ok(json!({
        "file": args.file,
        "bytes": snapshot.header().file_bytes,
        "version": snapshot::VERSION,
        "model": snapshot.model(),
        "target": snapshot.target(),
        "weights": snapshot.weights(),
        "digest": snapshot.digest(),
        "verified": args.verify,
        "config": section(snapshot, SectionKind::Config)?,
        "generation": section(snapshot, SectionKind::Generation)?,
        "sections": snapshot.sections(),
        "weight_bytes": weight_bytes,
        "tensors": tensors,
    }))
}

/// A JSON section's value; `null` where the snapshot has none.
fn section(snapshot: &Snapshot, kind: SectionKind) -> std::result::Result<Value, snapshot::Error> {
    let bytes = snapshot.section(kind)?;
    Ok(bytes.and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or(Value::Null))
}

fn print(facts: &Value) -> Result<()> {
    for key in ["file", "model", "weights", "target", "digest"] {
        output::line(format_args!("{key:<12} {}", facts[key].as_str().unwrap_or_default()))?;
    }
    let bytes = |key: &str| output::bytes(facts[key].as_u64().unwrap_or_default());
    output::line(format_args!(
        "{:<12} {} ({} of weights), format version {}",
        "size",
        bytes("bytes"),
        bytes("weight_bytes"),
        facts["version"]
    ))?;
    for key in ["config", "generation"] {
        output::line(format_args!("{key:<12} {}", facts[key]))?;
    }
    output::line(format_args!(
        "{:<12} {}",
        "verified",
        if facts["verified"] == true { "yes, every byte" } else { "no (--verify)" }
    ))?;
    for section in facts["sections"].as_array().into_iter().flatten() {
        let size = output::bytes(section["bytes"].as_u64().unwrap_or_default());
        let name = section["name"].as_str().unwrap_or_default();
        output::line(format_args!("  {:>12} {size:>10} section {name}", section["offset"]))?;
    }
    for tensor in facts["tensors"].as_array().into_iter().flatten() {
        let word = |key: &str| tensor[key].as_str().unwrap_or_default();
        let size = output::bytes(tensor["bytes"].as_u64().unwrap_or_default());
        output::line(format_args!(
            "  {:>12} {:>10} {:<6} {} {}",
            tensor["offset"],
            size,
            word("dtype"),
            word("name"),
            tensor["shape"]
        ))?;
    }
    Ok(())
}
