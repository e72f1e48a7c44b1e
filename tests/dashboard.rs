//! The dashboard in a real browser: it shows a cold start that its own playground caused.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;
use support::process::run;
use support::tools::{chromium, node_tools};
use support::{Serve, golden};

/// A name that is markup where somebody takes it for that.
const MARKUP: &str = "<b>bold</b>";

#[test]
fn chromium_sees_the_cold_start_that_its_question_causes() {
    let (Some(tools), Some(chromium)) = (node_tools("tests/dashboard"), chromium()) else { return };
    let snapshot = golden("llama3-tiny", "native");
    let named = |name: &str| format!("{name}={}", snapshot.display());
    let server = Serve::start(&["--model", &named("tiny"), "--model", &named(MARKUP), "--idle", "60s"]);
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("dashboard.png");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/dashboard_client.mjs");
    let mut client = Command::new("node");
    client.arg(script).args([&tools, &chromium]);
    client.args([format!("http://{}/", server.admin), format!("http://{}/", server.api), "tiny".to_owned()]);
    let (code, said, errors) = run(client.arg(&picture));
    println!("{said}");
    assert_eq!(code, Some(0), "{said}\n{errors}");
    assert_eq!(said.lines().filter(|line| line.starts_with("ok ")).count(), 11, "every check ran: {said}");
    let picture = std::fs::read(&picture).unwrap();
    assert!(picture.starts_with(b"\x89PNG") && picture.len() > 10_000, "{} bytes", picture.len());
}
