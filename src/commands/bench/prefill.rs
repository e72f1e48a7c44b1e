//! `bench prefill`: a prompt, beside how fast this machine multiplies.
//!
//! Model and arithmetic take turns. Of the model the median counts, of arithmetic the best round: it is a limit, and whatever else
//! the machine does can only hide it.

use super::{
    alone::{Alone, print_head},
    spread::Spread,
};
use crate::{cli::Prefill, exit::Result, output, progress::Progress};
use kernels::limits::Arithmetic;
use models::Operations;
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, path::Path};

/// Rounds of each kind of arithmetic after each run of the model.
const ROUNDS: usize = 2;

/// Measures and prints.
pub fn bench(args: &Prefill, snapshot: &Path) -> Result<()> {
    let mut alone = Alone::restore(snapshot, &args.alone, args.tokens as usize)?;
    let report = report(args, &mut alone);
    if args.alone.json { output::json(&report) } else { print(&report, args) }
}

fn report(args: &Prefill, alone: &mut Alone) -> Value {
    let tokens = args.tokens as usize;
    let operations = alone.cost.prefill(tokens);
    let mut progress = Progress::new();
    progress.step("warming");
    alone.prefill(0, tokens);
    let (mut rates, mut limits) = (Vec::new(), BTreeMap::new());
    for run in 1..=args.alone.runs {
        progress.step(&format!("run {run} of {}", args.alone.runs));
        rates.push(tokens as f64 / alone.prefill(0, tokens).as_secs_f64());
        for kind in operations.keys() {
            limits.entry(*kind).or_insert_with(Vec::new).extend((0..ROUNDS).map(|_| kind.rate()));
        }
    }
    drop(progress);
    let speed = Spread::of(rates);
    let limits = limits.into_iter().map(|(kind, rates)| (kind, Spread::of(rates))).collect();
    let mut report = alone.facts();
    let measured = json!({
        "runs": args.alone.runs,
        "tokens": tokens,
        "tokens_per_second": speed.json(),
        "operations_per_token": by_name(&operations, |count| json!(count / tokens as f64)),
        "operations_per_second": operations.values().sum::<f64>() * speed.median / tokens as f64,
        "arithmetic_operations_per_second": by_name(&limits, |spread| spread.json()),
        "fraction_of_arithmetic": least_seconds(&operations, &limits) * speed.median / tokens as f64,
    });
    report.extend(measured.as_object().cloned().unwrap_or_default());
    Value::Object(report)
}

/// The time that the operations would take with nothing between them.
fn least_seconds(operations: &Operations, limits: &BTreeMap<Arithmetic, Spread>) -> f64 {
    operations.iter().map(|(kind, count)| limits.get(kind).map_or(0.0, |limit| count / limit.most)).sum()
}

fn by_name<T>(map: &BTreeMap<Arithmetic, T>, json: impl Fn(&T) -> Value) -> Value {
    Value::Object(map.iter().map(|(kind, value)| (kind.name().to_owned(), json(value))).collect::<Map<_, _>>())
}

fn print(report: &Value, args: &Prefill) -> Result<()> {
    print_head(report, &format!("{} prompts of {} tokens", args.alone.runs, args.tokens))?;
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    let speed = &report["tokens_per_second"];
    let (median, least, most) = (number(&speed["median"]), number(&speed["min"]), number(&speed["max"]));
    let each = |value: &Value, of: &dyn Fn(&Value) -> f64, unit: &str| -> String {
        let kinds = value.as_object().into_iter().flatten();
        kinds.map(|(kind, value)| format!("{kind} {:.2} {unit}", of(value) / 1e9)).collect::<Vec<_>>().join(", ")
    };
    let rows = [
        ("tokens/s", format!("{median:.1} (median; {least:.1} to {most:.1})")),
        ("work/token", each(&report["operations_per_token"], &number, "Gop")),
        ("work", format!("{:.2} Gop/s", number(&report["operations_per_second"]) / 1e9)),
        (
            "arithmetic",
            format!(
                "{} (best round)",
                each(&report["arithmetic_operations_per_second"], &|spread| number(&spread["max"]), "Gop/s")
            ),
        ),
        ("of the limit", format!("{:.0} %", 100.0 * number(&report["fraction_of_arithmetic"]))),
    ];
    for (name, value) in rows {
        output::line(format_args!("{name:<14} {value}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_at_the_limits_add_up() {
        let operations = Operations::from([(Arithmetic::Int8, 8e9), (Arithmetic::F32, 1e9)]);
        let limit = |most| Spread { median: 1.0, least: 1.0, most };
        let limits = BTreeMap::from([(Arithmetic::Int8, limit(16e9)), (Arithmetic::F32, limit(4e9))]);
        assert!((least_seconds(&operations, &limits) - 0.75).abs() < 1e-12);
    }
}
