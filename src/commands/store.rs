//! `ls` and `rm`: what the store has, and what is gone.

use crate::{
    cli::{List, Remove},
    environment::Environment,
    exit::Result,
    output,
};
use serde_json::{Value, json};
use std::path::Path;
use store::{Entry, Receipt, Store};

/// Prints the models of the store.
pub fn list(args: &List, environment: &Environment) -> Result<()> {
    let entries = Store::open(&environment.store()?)?.list()?;
    if args.json {
        return output::json(&Value::Array(entries.iter().map(facts).collect()));
    }
    for entry in &entries {
        output::line(format_args!("{:<24} {:>10}  {}", entry.name, output::bytes(entry.bytes), entry.source))?;
        for snapshot in &entry.snapshots {
            output::line(format_args!("  sealed: {}", snapshot.display()))?;
        }
    }
    if entries.is_empty() {
        output::note("the store is empty; fetch a model: pilotlight pull smollm2");
    }
    Ok(())
}

fn facts(entry: &Entry) -> Value {
    json!({
        "name": entry.name,
        "source": entry.source,
        "revision": entry.revision,
        "path": entry.path,
        "sha256": entry.sha256,
        "bytes": entry.bytes,
        "snapshots": entry.snapshots,
    })
}

/// Deletes a model and prints the receipt.
pub fn remove(args: &Remove, environment: &Environment) -> Result<()> {
    let store = Store::open(&environment.store()?)?;
    let receipt = store.remove(&args.name)?;
    if args.json { output::json(&receipt_facts(&receipt)) } else { print(&receipt) }
}

fn receipt_facts(receipt: &Receipt) -> Value {
    let removed: Vec<Value> = receipt
        .removed
        .iter()
        .map(|(path, bytes)| json!({"path": path, "bytes": bytes, "sha256": digest(receipt, path)}))
        .collect();
    json!({"name": receipt.name, "removed": removed, "bytes": total(receipt)})
}

fn print(receipt: &Receipt) -> Result<()> {
    for (path, bytes) in &receipt.removed {
        let sha256 = digest(receipt, path).map_or_else(String::new, |digest| format!(", sha256 {digest}"));
        output::line(format_args!("removed {} ({}{sha256})", path.display(), output::bytes(*bytes)))?;
    }
    let (name, files) = (&receipt.name, receipt.removed.len());
    output::line(format_args!("{name} is gone: {files} files, {}", output::bytes(total(receipt))))
}

fn total(receipt: &Receipt) -> u64 {
    receipt.removed.iter().map(|(_, bytes)| bytes).sum()
}

/// What a removed file's bytes were known by.
fn digest<'a>(receipt: &'a Receipt, path: &Path) -> Option<&'a str> {
    receipt.digests.iter().find(|(of, _)| of == path).map(|(_, digest)| digest.as_str())
}
