//! Grafana's dashboard and the alerts in `knative/` against what `/metrics` exposes: no panel and no alert asks for what nobody says.
#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use support::process::run;
use support::{Serve, golden, test_tools, until};

/// One time series: its name, and its labels.
type Series = (String, BTreeMap<String, String>);

/// One condition of a selection: label, operator, value.
type Condition = (String, String, String);

/// Whoever scrapes adds these.
const SCRAPED: [&str; 1] = ["namespace"];

#[test]
fn grafana_s_panels_are_drawn_from_what_is_exposed() {
    let text = std::fs::read_to_string(file("grafana/dashboard.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "ids are unique");
    let mut cells = BTreeSet::new();
    for panel in panels {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().unwrap());
        assert!(x + w <= 24, "Grafana's grid has 24 columns: {panel}");
        for cell in (x..x + w).flat_map(|column| (y..y + h).map(move |row| (column, row))) {
            assert!(cells.insert(cell), "two panels on one place: {panel}");
        }
    }
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut expressions: Vec<String> = targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect();
    let variable = &dashboard["templating"]["list"][1];
    expressions.push(variable["definition"].as_str().unwrap().to_owned());
    let series = exposed();
    all_exposed(&expressions, &series);
    let shown: BTreeSet<String> = expressions.iter().flat_map(|text| uses(text)).map(|(name, _)| base(&name)).collect();
    let all: BTreeSet<String> = series.iter().map(|(name, _)| base(name)).collect();
    assert_eq!(shown, all, "every metric has a panel");
}

#[test]
fn alerts_are_about_what_is_exposed() {
    let Some(python) = test_tools() else { return };
    let to_json = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let (code, said, errors) = run(Command::new(python).args(["-c", to_json]).arg(file("alerts.yaml")));
    assert_eq!(code, Some(0), "{errors}");
    let manifest: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(
        (&manifest["apiVersion"], &manifest["kind"]),
        (&json!("monitoring.coreos.com/v1"), &json!("PrometheusRule"))
    );
    let groups = manifest["spec"]["groups"].as_array().unwrap();
    let rules: Vec<&Value> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    let names: BTreeSet<&str> = rules.iter().map(|rule| rule["alert"].as_str().unwrap()).collect();
    assert_eq!(names.len(), rules.len(), "names are unique");
    for rule in &rules {
        assert!(["warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap()), "{rule}");
        let annotations = &rule["annotations"];
        assert!(annotations["summary"].is_string() && annotations["description"].is_string(), "{rule}");
    }
    let expressions: Vec<String> = rules.iter().map(|rule| rule["expr"].as_str().unwrap().to_owned()).collect();
    all_exposed(&expressions, &exposed());
}

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("knative").join(name)
}

/// What is exposed by an activator one of whose models has answered and the other of whose cannot start.
fn exposed() -> Vec<Series> {
    let snapshot = golden("llama3-tiny", "native");
    let folder = tempfile::tempdir().unwrap();
    let gone = folder.path().join("gone.snapshot");
    std::fs::copy(&snapshot, &gone).unwrap();
    let named = |name: &str, path: &Path| format!("{name}={}", path.display());
    let models = [named("tiny", &snapshot), named("gone", &gone)];
    let server = Serve::start(&["--model", &models[0], "--model", &models[1], "--idle", "60s"]);
    std::fs::remove_file(&gone).unwrap();
    for (model, status) in [("tiny", 200), ("gone", 503)] {
        let answer = server.post("/v1/completions", &json!({"model": model, "prompt": "hi", "max_tokens": 4}));
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    // The engine tells of itself a little later.
    until("what the engine says", || {
        let text = server.admin("/metrics").text();
        text.contains("pilotlight_sequences").then(|| text.lines().filter_map(sample).collect())
    })
}

/// A line of the text format that is a sample.
fn sample(line: &str) -> Option<Series> {
    let (series, _) = line.strip_prefix("pilotlight_")?.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    Some((format!("pilotlight_{name}"), pairs(labels).map(|(label, _, value)| (label, value)).collect()))
}

/// Every `label="value"` up to the closing brace. No value of ours has a comma or a quote.
fn pairs(labels: &str) -> impl Iterator<Item = Condition> {
    let inside = labels.split('}').next().unwrap_or_default();
    inside.split(',').filter_map(|pair| {
        let (left, rest) = pair.split_once('"')?;
        let name = left.trim().trim_end_matches(['=', '~', '!']);
        let operator = left.trim()[name.len()..].to_owned();
        Some((name.to_owned(), operator, rest.trim_end_matches('"').to_owned()))
    })
}

/// Every metric in an expression, with the labels that it is selected by.
fn uses(expression: &str) -> Vec<(String, Vec<Condition>)> {
    let places = expression.match_indices("pilotlight_").map(|(at, _)| &expression[at..]);
    let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    places
        .map(|text| {
            let (name, rest) = text.split_at(text.find(|c| !of_name(c)).unwrap_or(text.len()));
            (name.to_owned(), rest.strip_prefix('{').map(|rest| pairs(rest).collect()).unwrap_or_default())
        })
        .collect()
}

/// What an expression is grouped by.
fn groups(expression: &str) -> impl Iterator<Item = &str> {
    let lists = expression.split("by (").skip(1).filter_map(|rest| rest.split(')').next());
    lists.flat_map(|list| list.split(',')).map(str::trim)
}

/// # Panics
/// Where an expression selects by a name, a label or a label's value that is not among these series, naming it.
fn all_exposed(expressions: &[String], series: &[Series]) {
    for expression in expressions {
        let used = uses(expression);
        assert!(!used.is_empty(), "{expression}");
        for (name, labels) in used {
            let fits = |labels_exposed: &BTreeMap<String, String>| {
                labels.iter().all(|(label, operator, value)| {
                    let exposed = labels_exposed.get(label);
                    exposed.is_some_and(|exposed| operator != "=" || exposed == value)
                })
            };
            let found = series.iter().any(|(exposed, labels)| *exposed == name && fits(labels));
            assert!(found, "{name} with {labels:?} is not exposed, in {expression}");
        }
        for label in groups(expression) {
            let known = series.iter().any(|(_, labels)| labels.contains_key(label));
            assert!(known || SCRAPED.contains(&label), "nothing has the label {label}, in {expression}");
        }
    }
}

/// A metric's name without what its kind appends to it.
fn base(name: &str) -> String {
    let ends = ["_bucket", "_sum", "_count"];
    ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name).to_owned()
}
