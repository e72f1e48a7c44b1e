//! The official `openai` Python package, the judge of compatibility, against `serve` from zero.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;
use support::process::run;
use support::{Serve, minilm, smollm2, test_tools, with_tools};

#[test]
fn the_openai_client_chats_and_completes_streaming_and_not_from_zero() {
    let (Some(python), Some(snapshot), Some(minilm)) = (test_tools(), smollm2(), minilm()) else { return };
    let named = |name: &str, snapshot: &Path| format!("{name}={}", snapshot.display());
    let models = [named("smollm2", &snapshot), named("minilm", &minilm), named("caller", &with_tools())];
    let server =
        Serve::start(&["--model", &models[0], "--model", &models[1], "--model", &models[2], "--idle", "300ms"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/openai_client.py");
    let (code, said, errors) = run(Command::new(python)
        .arg(script)
        .arg(format!("http://{}/v1", server.api))
        .arg(format!("http://{}/slots", server.admin))
        .args(["smollm2", "minilm", "caller"]));
    println!("{said}");
    assert_eq!(code, Some(0), "{said}\n{errors}");
    assert_eq!(said.lines().filter(|line| line.starts_with("ok ")).count(), 22, "every check ran: {said}");
}
